"""What load accepts, on which provider it runs, and what it refuses."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from neuropod_core import DeviceError, LoadOptions, ModelLoadError, OptionError, PackageFormatError, Problem
from neuropod_onnx._providers import check_running, missing, providers_for
from neuropod_onnx.plugin import OnnxBackend

FLOAT = TensorProto.FLOAT
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
X, Y = {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"}


@pytest.fixture
def mlp(opened: Any, build: Any) -> Any:
    """Open the small model with some options: ``mlp(device=..., intra_op_threads=...)``."""
    return lambda **options: opened(build.mlp(), X, Y, **options)


# -- providers --------------------------------------------------------------------------------------------------------


def _has_cuda() -> bool:
    return CUDA in onnxruntime.get_available_providers()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_an_error_where_there_is_none(mlp: Any, device: str, capfd: Any) -> None:
    if _has_cuda():
        pytest.skip("this ONNX Runtime was built with CUDA")
    with pytest.raises(DeviceError, match=rf"{CUDA} was asked for, .*{CPU}; run: pip install 'neuropod-onnx\[gpu\]'"):
        mlp(device=device)

    assert capfd.readouterr() == ("", "")


def test_auto_takes_the_cpu_where_there_is_nothing_else(mlp: Any, capfd: Any) -> None:
    model = mlp(device="auto")
    expected = [CPU] if not _has_cuda() else model.description["providers"]

    assert model.description["providers"] == expected
    assert capfd.readouterr() == ("", "")


def test_cpu_is_the_cpu_alone(mlp: Any) -> None:
    assert mlp(device="cpu").description["providers"] == [CPU]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cpu:", "", "tpu:0"])
def test_unknown_devices_are_refused(mlp: Any, device: str) -> None:
    with pytest.raises(DeviceError, match="is no device; use 'cpu', 'cuda'"):
        mlp(device=device)


def test_providers_are_strict_unless_fallback_is_asked_for(mlp: Any, capfd: Any) -> None:
    with pytest.raises(DeviceError, match="OpenVINOExecutionProvider was asked for, this ONNX Runtime was built with"):
        mlp(providers=["OpenVINOExecutionProvider", CPU])
    with pytest.raises(DeviceError, match="NoSuchProvider was asked for"):
        mlp(providers=["NoSuchProvider"])

    assert mlp(providers=["OpenVINOExecutionProvider"], fallback=True).description["providers"] == [CPU]
    assert mlp(device="cuda", fallback=True).description["providers"][-1] == CPU
    assert capfd.readouterr() == ("", "")


def test_fallback_does_not_hide_a_model_that_is_wrong(opened: Any) -> None:
    with pytest.raises(ModelLoadError):
        opened(b"garbage", X, Y, device="auto", fallback=True)


def test_providers_take_options(mlp: Any) -> None:
    model = mlp(providers=[(CPU, {"use_arena": 0})])

    assert model.description["providers"] == [CPU]


@pytest.mark.parametrize("providers", [[], "CPUExecutionProvider", [1], [(CPU,)], [(CPU, 1)], [("a", {}, 1)]], ids=repr)
def test_malformed_providers_are_refused(mlp: Any, providers: object) -> None:
    with pytest.raises(OptionError, match="provider"):
        mlp(providers=providers)


def test_providers_and_device_must_not_contradict(mlp: Any) -> None:
    with pytest.raises(OptionError, match=f"device 'cuda' was asked for, and providers that do not run there .{CPU}."):
        mlp(device="cuda", providers=[CPU])


def test_the_number_of_the_device_reaches_the_provider() -> None:
    given = [("TensorrtExecutionProvider", {"trt_fp16_enable": True}), (CUDA, {"device_id": 3}), CPU]
    providers = providers_for(LoadOptions("cuda:2", {"providers": given}))

    assert providers_for(LoadOptions("cuda:2")) == [(CUDA, {"device_id": "2"}), (CPU, {})]
    assert providers[0] == ("TensorrtExecutionProvider", {"trt_fp16_enable": "True", "device_id": "2"})
    assert providers[1:] == [(CUDA, {"device_id": "3"}), (CPU, {})]


def test_a_provider_that_is_listed_but_does_not_run_is_an_error() -> None:
    providers = providers_for(LoadOptions("cuda"))

    assert missing(providers, [CUDA, CPU]) is None
    with pytest.raises(DeviceError, match=f"{CUDA} was asked for, ONNX Runtime could not start it and took {CPU}; "):
        check_running(providers, [CPU])


# -- model and problem ------------------------------------------------------------------------------------------------

MISMATCHES = {
    "type": ({"x": "float64[N, 64]"}, Y, r"problem says float64\[N, 64\], the model float32\[N, 64\] - at inputs.x"),
    "rank": ({"x": "float32[N]"}, Y, r"the problem says float32\[N\], the model float32\[N, 64\] - at inputs.x"),
    "size": (X, {"y": "float32[N, 11]"}, r"problem says float32\[N, 11\], the model float32\[N, 10\] - at outputs.y"),
    "input name": ({"z": X["x"]}, Y, r"the model has no input 'z' \(its inputs are x\) - at inputs.z; name it in node"),
    "output name": (X, {"z": Y["y"]}, r"the model has no output 'z' \(its outputs are y\) - at outputs.z"),
    "input missing": ({}, Y, "the model needs an input 'x', the problem's inputs are none - at inputs; declare it"),
}


@pytest.mark.parametrize(("inputs", "outputs", "message"), MISMATCHES.values(), ids=list(MISMATCHES))
def test_load_compares_the_problem_with_the_model(
    opened: Any, build: Any, inputs: Any, outputs: Any, message: str
) -> None:
    with pytest.raises(PackageFormatError, match=message):
        opened(build.mlp(), inputs, outputs)


def test_a_scalar_is_not_any_rank(opened: Any, build: Any) -> None:
    scalar = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, [])}, {"y": (FLOAT, [])})
    any_rank = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, None)}, {"y": (FLOAT, None)})
    with pytest.raises(PackageFormatError, match=r"the problem says float32\[N\], the model float32\[\]"):
        opened(scalar, {"x": "float32[N]"}, {"y": "float32[N]"})

    model = opened(any_rank, {"x": "float32[2]"}, {"y": "float32[2]"})
    assert model.infer({"x": np.ones(2, np.float32)})["y"].shape == (2,)


def test_an_optional_output_may_be_missing_from_the_model(opened: Any, build: Any) -> None:
    missing_one = {**Y, "z": {"dtype": "float32", "shape": [1], "optional": True}}
    model = opened(build.mlp(), X, missing_one)

    assert list(model.infer({"x": np.zeros((1, 64), np.float32)})) == ["y"]


@pytest.mark.parametrize("mapping", [["x"], "x", {"x": 1}, {1: "x"}], ids=repr)
def test_a_malformed_mapping_is_refused(opened: Any, build: Any, mapping: object) -> None:
    with pytest.raises(PackageFormatError, match="node_name_mapping is a table of names to names"):
        opened(build.mlp(), X, Y, config={"node_name_mapping": mapping})


def test_two_names_for_one_node_are_refused(opened: Any, build: Any) -> None:
    with pytest.raises(PackageFormatError, match="two names stand for the model's 'y'"):
        opened(build.mlp(), X, {**Y, "z": Y["y"]}, config={"node_name_mapping": {"z": "y"}})


@pytest.mark.parametrize(
    ("domain", "remedy"), [("", "run: pip install --upgrade onnxruntime"), ("own", "package it with .* custom_ops=")]
)
def test_load_says_what_onnxruntime_says(opened: Any, build: Any, capfd: Any, domain: str, remedy: str) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    operator = build.node("NoSuchOperator", "x", "y", domain=domain)
    unknown = build.model([operator], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])}, opset_imports=opsets)
    with pytest.raises(ModelLoadError, match=f"NoSuchOperator.*at model.onnx; {remedy}") as caught:
        opened(unknown, {"x": "float32[N]"}, {"y": "float32[N]"})

    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_package_without_a_model_is_refused(tmp_path: Path, build: Any) -> None:
    variant = build.variant(tmp_path, b"x", Problem.of(X, Y))
    (tmp_path / "0" / "data" / "model.onnx").unlink()
    with pytest.raises(PackageFormatError, match="the onnx package has no 0/data/model.onnx"):
        OnnxBackend().load(variant, LoadOptions())


def test_a_library_that_is_none_is_refused(tmp_path: Path, build: Any, capfd: Any) -> None:
    import dataclasses

    library = tmp_path / "libown.so"
    library.write_bytes(b"no library")
    variant = dataclasses.replace(build.variant(tmp_path, build.mlp(), Problem.of(X, Y)), custom_ops=(library,))
    with pytest.raises(
        ModelLoadError, match="cannot load the custom operators: .* - at ops/libown.so; build the library"
    ):
        OnnxBackend().load(variant, LoadOptions())

    assert capfd.readouterr() == ("", "")


def test_models_never_configure_the_session(opened: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    model = build.mlp()
    entry = model.metadata_props.add()
    entry.key, entry.value = "ort_config", '{"session_options": {"intra_op_num_threads": 3}}'
    with pytest.raises(ModelLoadError, match="ORT config"):  # Better than 3 threads that nobody here asked for.
        opened(model, X, Y)


# -- close ------------------------------------------------------------------------------------------------------------


def test_close_frees_the_session(opened: Any, build: Any) -> None:
    model = opened(build.mlp(), X, Y)
    for _ in range(5):
        model.infer({"x": np.zeros((1, 64), np.float32)})
    session = weakref.ref(model._session)
    model.close()
    gc.collect()

    assert session() is None


def test_close_frees_the_memory(opened: Any, build: Any) -> None:
    weights = np.random.default_rng(0).random((2048, 4096), np.float32)  # 32 MB.
    kinds = {"x": (FLOAT, ["N", 2048])}, {"y": (FLOAT, ["N", 4096])}
    model = build.model([build.node("MatMul", "x w", "y")], *kinds, ("w", weights)).SerializeToString()

    def once() -> None:
        executor = opened(model, {"x": "float32[N, 2048]"}, {"y": "float32[N, 4096]"})
        for _ in range(3):
            executor.infer({"x": np.zeros((1, 2048), np.float32)})
        executor.close()
        del executor
        gc.collect()

    once()
    before = _resident_bytes()
    for _ in range(6):
        once()

    assert _resident_bytes() - before < 3 * weights.nbytes


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
