"""What options of `load_neuropod` do to a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from neuropod_core import DeviceError, InferenceError, OptionError
from neuropod_onnx.plugin import OnnxBackend

FLOAT = TensorProto.FLOAT
X, Y = {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"}
SWITCHES = {
    "memory_pattern": "enable_mem_pattern",
    "memory_reuse": "enable_mem_reuse",
    "memory_arena": "enable_cpu_mem_arena",
    "deterministic": "use_deterministic_compute",
}
HAS_LIBRARIES = hasattr(onnxruntime, "register_execution_provider_library")
FITS_GGML = sys.version_info >= (3, 11) and (1, 29) <= tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31)


@pytest.fixture
def mlp(opened: Any, build: Any) -> Any:
    """Open the small model with some options: ``mlp(device=..., intra_op_threads=...)``."""
    return lambda **options: opened(build.mlp(), X, Y, **options)


def test_options_reach_the_session(mlp: Any) -> None:
    model = mlp(
        intra_op_threads=1,
        inter_op_threads=2,
        execution_mode="parallel",
        graph_optimization_level="basic",
        allow_spinning=False,
        session_config={"session.set_denormal_as_zero": "1"},
        log_severity=3,
    )
    asked = model._session.get_session_options()

    assert (asked.intra_op_num_threads, asked.inter_op_num_threads) == (1, 2)
    assert asked.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert asked.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert asked.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert asked.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert asked.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert asked.log_severity_level == 3
    assert model.description["intra_op_threads"] == 1
    assert model.infer({"x": np.zeros((1, 64), np.float32)})["y"].shape == (1, 10)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("intra_op_threads", 0),
        ("intra_op_threads", "2"),
        ("inter_op_threads", -1),
        ("inter_op_threads", True),
        ("execution_mode", "fast"),
        ("execution_mode", 1),
        ("graph_optimization_level", "99"),
        ("graph_optimization_level", None),
        ("allow_spinning", 0),
        ("session_config", {"a": 1}),
        ("session_config", ["a"]),
        ("session_config", {"": "1"}),
        ("session_config", {"a" * 2000: "1"}),
        ("log_severity", 5),
        ("log_severity", -1),
        ("fallback", "yes"),
        ("memory_pattern", 1),
        ("memory_reuse", "no"),
        ("memory_arena", None),
        ("deterministic", "yes"),
        ("free_dimensions", ["N"]),
        ("free_dimensions", {"N": 0}),
        ("free_dimensions", {"N": True}),
        ("free_dimensions", {"N": 2**63}),
        ("free_dimensions", {"M": 1}),
        ("free_dimensions", {1: 1}),
        ("provider_library", "libown.so"),
        ("provider_library", {"own": "no/such/lib.so"}),
        ("provider_library", {"own": 1}),
        ("provider_library", {"": __file__}),
    ],
)
def test_values_that_an_option_cannot_have_are_refused(mlp: Any, option: str, value: object) -> None:
    with pytest.raises(OptionError, match=option):
        mlp(**{option: value})


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("option", SWITCHES)
def test_switches_reach_the_session(mlp: Any, option: str, value: bool) -> None:
    model = mlp(**{option: value})
    x = np.ones((2, 64), np.float32)

    assert getattr(model._session.get_session_options(), SWITCHES[option]) is value
    assert {model.infer({"x": x})["y"].tobytes() for _ in range(4)} == {mlp().infer({"x": x})["y"].tobytes()}


def test_without_options_the_switches_are_onnxruntimes_own(mlp: Any) -> None:
    ours, plain = mlp()._session.get_session_options(), onnxruntime.SessionOptions()

    assert {name: getattr(ours, name) for name in SWITCHES.values()} == {
        name: getattr(plain, name) for name in SWITCHES.values()
    }


@pytest.mark.parametrize("level", ["none", "basic", "extended", "layout", "all"])
def test_every_level_gives_the_same_numbers(mlp: Any, level: str) -> None:
    if level == "layout" and not hasattr(onnxruntime.GraphOptimizationLevel, "ORT_ENABLE_LAYOUT"):
        pytest.skip("this onnxruntime has no such level")
    x = np.random.default_rng(1).random((3, 64), np.float32)

    np.testing.assert_allclose(
        mlp(graph_optimization_level=level).infer({"x": x})["y"], mlp().infer({"x": x})["y"], rtol=1e-5, atol=1e-6
    )


# -- free dimensions --------------------------------------------------------------------------------------------------


def test_a_symbol_of_the_problem_fixes_the_models_dimension(opened: Any, build: Any) -> None:
    model = build.model(
        [build.node("Add", "a b", "y")],
        {"a": (FLOAT, ["rows", 2]), "b": (FLOAT, ["rows", 2])},
        {"y": (FLOAT, ["rows", 2])},
    )
    mapping = {"node_name_mapping": {"x": "a"}}
    inputs = {"x": "float32[N, 2]", "b": "float32[N, 2]"}
    loaded = opened(model, inputs, {"y": "float32[N, 2]"}, config=mapping, free_dimensions={"N": 3})

    def call(rows: int) -> Any:
        return loaded.infer({name: np.ones((rows, 2), np.float32) for name in inputs})["y"].tolist()

    assert [node.shape for node in loaded._session.get_inputs()] == [[3, 2], [3, 2]]
    assert [call(3) for _ in range(4)] == [[[2, 2]] * 3] * 4
    with pytest.raises(InferenceError, match="Got: 2 Expected: 3"):
        call(2)


def test_two_symbols_for_one_dimension_must_agree(opened: Any, build: Any) -> None:
    model = build.model(
        [build.node("Concat", "a b", "y", axis=0)], {"a": (FLOAT, ["n"]), "b": (FLOAT, ["n"])}, {"y": (FLOAT, ["m"])}
    )
    sides = {"a": "float32[A]", "b": "float32[B]"}, {"y": "float32[Y]"}
    with pytest.raises(OptionError, match="the model's dimension 'n' cannot be 2 and 3 - at free_dimensions"):
        opened(model, *sides, free_dimensions={"A": 2, "B": 3})

    assert opened(model, *sides, free_dimensions={"A": 2, "B": 2})._session.get_inputs()[0].shape == [2]


def test_a_dimension_without_a_name_cannot_be_fixed(opened: Any, build: Any) -> None:
    model = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, [None])}, {"y": (FLOAT, [None])})
    with pytest.raises(OptionError, match="'N' is no symbol with a name in the model .those are none."):
        opened(model, {"x": "float32[N]"}, {"y": "float32[N]"}, free_dimensions={"N": 2})


# -- libraries of execution providers ---------------------------------------------------------------------------------

GGML = """
import sys, numpy as np, onnxruntime_ggml, neuropod_core
path, library = sys.argv[1], onnxruntime_ggml.library_path()
asked = {"provider_library": {"ggml": library}, "providers": ["ggml", "CPUExecutionProvider"]}
x = np.random.default_rng(1).random((3, 64), np.float32)
with neuropod_core.load_neuropod(path, options=asked) as model:
    first = model.infer({"x": x})["y"]
    assert list(model.description["providers"]) == ["ggml", "CPUExecutionProvider"], model.description
asked["providers"] = [("ggml", {"device": "cpu"})]
with neuropod_core.load_neuropod(path, options=asked) as model:
    assert np.array_equal(model.infer({"x": x})["y"], first)
with neuropod_core.load_neuropod(path) as model:
    np.testing.assert_allclose(model.infer({"x": x})["y"], first, rtol=1e-2, atol=1e-2)  # It keeps weights as float16.
try:
    neuropod_core.load_neuropod(path, options={"provider_library": {"ggml": __import__("_ctypes").__file__}})
except neuropod_core.OptionError as error:
    assert "'ggml' stands for another library in this process" in str(error), error
print("right")
"""


@pytest.mark.skipif(not FITS_GGML, reason="this release of onnxruntime is none that onnxruntime-ggml is built for")
def test_a_provider_comes_from_its_library(build: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_ggml")
    from neuropod_onnx import create_onnx_neuropod

    create_onnx_neuropod(neuropod_path=tmp_path / "m.neuropod", model_name="m", model=build.mlp())
    done = subprocess.run(
        [sys.executable, "-c", GGML, str(tmp_path / "m.neuropod")], check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


@pytest.mark.skipif(not HAS_LIBRARIES, reason="this release of onnxruntime takes no libraries of providers")
def test_a_library_that_has_no_provider_is_refused(mlp: Any, capfd: Any) -> None:
    import _ctypes

    for path in (__file__, _ctypes.__file__):
        with pytest.raises(DeviceError, match=f"ONNX Runtime cannot take the library '{Path(path).name}': .*; use the"):
            mlp(provider_library={"own": path}, providers=["own"])

    assert capfd.readouterr() == ("", "")


def test_an_old_onnxruntime_takes_no_libraries(mlp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library", raising=False)
    with pytest.raises(DeviceError, match="takes no libraries of execution providers; run: pip install --upgrade"):
        mlp(provider_library={"own": __file__}, providers=["own"])


def test_every_option_is_documented() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")

    assert [option for option in OnnxBackend.descriptor.options if f"`{option}`" not in readme] == []
