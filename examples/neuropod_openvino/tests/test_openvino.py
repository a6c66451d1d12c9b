"""What is OpenVINO's own: agreement with ONNX Runtime, the choice between the two, its limits, hostile models."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import (
    BackendConflictError,
    InferenceError,
    ModelLoadError,
    Neuropod,
    NeuropodError,
    OptionError,
    PackageFormatError,
    Problem,
    load_neuropod,
)
from neuropod_core.packaging import new_package
from neuropod_onnx import create_onnx_neuropod

OPENVINO: dict[str, Any] = {"backend": "neuropod-openvino", "trust": "data"}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes: list[Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any], *initializers: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(i[1], i[0]) if isinstance(i, tuple) else i for i in initializers],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def convolutional() -> bytes:
    random = np.random.default_rng(7)
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "kernel", "bias"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w"], ["logits"]),
        node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    weights = {"kernel": (8, 3, 3, 3), "bias": (8,), "w": (8, 5)}
    initializers = [(name, random.normal(size=shape).astype(np.float32)) for name, shape in weights.items()]
    outputs = {"scores": (FLOAT, ["N", 5]), "logits": (FLOAT, ["N", 5])}
    return model_of(nodes, {"image": (FLOAT, ["N", 3, "H", "W"])}, outputs, *initializers)


def doubled(element: int = FLOAT) -> bytes:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return model_of(nodes, {"x": (element, ["N"])}, {"y": (element, ["N"])})


def packaged(path: Path, model: bytes, **arguments: Any) -> Path:
    loading = {"neuropod_load_args": OPENVINO}
    create_onnx_neuropod(neuropod_path=path, model_name="m", model=model, **{**loading, **arguments})
    return path


def stranger(path: Path, model: bytes, problem: Problem, files: Mapping[str, bytes] | None = None) -> Path:
    """Write what another program might have written: a package that nobody has loaded."""
    (path / "0" / "data").mkdir(parents=True)
    with new_package("onnx", neuropod_path=path.parent / "sound", model_name="m", problem=problem, **UNPROVEN) as new:
        (new.folder / "data").mkdir()
        (new.folder / "data" / "model.onnx").write_bytes(doubled())
    for name, content in {"0/data/model.onnx": model, **(files or {})}.items():
        (path / name).write_bytes(content)
    (path / "config.json").write_bytes((path.parent / "sound" / "config.json").read_bytes())
    return path


UNPROVEN: Any = {"package_as_zip": False, "neuropod_load_args": OPENVINO}
X_TO_Y = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged(tmp_path_factory.mktemp("models") / "image.neuropod", convolutional())


def test_openvino_agrees_with_onnx_runtime(image_model: Path) -> None:
    image = np.random.default_rng(0).normal(size=(4, 3, 17, 9)).astype(np.float32)

    with (
        load_neuropod(image_model, backend="neuropod-onnx", trust="data") as one,
        load_neuropod(image_model, **OPENVINO) as other,
    ):
        expected, results = one.infer({"image": image}), other.infer({"image": image})

        assert ("providers" in one.description, other.description["framework"]) == (True, "openvino")
    for name, array in expected.items():
        np.testing.assert_allclose(results[name], array, rtol=1e-5, atol=1e-5)


def test_two_backends_conflict_until_one_is_chosen(image_model: Path) -> None:
    with pytest.raises(BackendConflictError, match="neuropod-onnx, neuropod-openvino"):
        load_neuropod(image_model, trust="data")


def test_the_only_one_that_is_not_blocked_is_taken(image_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_BLOCKED_PLUGINS", "neuropod-onnx")

    with load_neuropod(image_model, trust="data") as model:
        assert model.description["framework"] == "openvino"


def test_calls_of_many_shapes_run_side_by_side(image_model: Path) -> None:
    images = [np.full((1 + n % 3, 3, 4 + n, 5), n, np.float32) for n in range(12)]
    with load_neuropod(image_model, **OPENVINO) as model, ThreadPoolExecutor(4) as pool:
        alone = [model.infer({"image": image})["scores"].tolist() for image in images]
        together = pool.map(lambda image: model.infer({"image": image})["scores"].tolist(), images)

        assert list(together) == alone


def test_names_of_the_package_are_mapped(tmp_path: Path) -> None:
    path = packaged(tmp_path / "m.neuropod", doubled(), node_name_mapping={"speed": "x", "twice": "y"})

    with load_neuropod(path, **OPENVINO) as model:
        assert model.infer({"speed": np.ones(2, np.float32)})["twice"].tolist() == [2, 2]


def test_precision_is_that_of_the_model_unless_asked_for(image_model: Path) -> None:
    with load_neuropod(image_model, options={"threads": 1}, **OPENVINO) as model:
        facts = model.description

    assert (facts["threads"], "float32" in str(facts["precision"])) == ("1", True)
    with pytest.raises(OptionError, match="'f32', 'bf16' or 'f16', not 'int4'"):
        load_neuropod(image_model, options={"precision": "int4"}, **OPENVINO)


def test_integers_beyond_32_bits_are_refused_and_not_cut(tmp_path: Path) -> None:
    with load_neuropod(packaged(tmp_path / "m.neuropod", doubled(INT64)), **OPENVINO) as model:
        assert model.infer({"x": np.array([-5, 2**29])})["y"].tolist() == [-10, 2**30]
        with pytest.raises(InferenceError, match="keeps int64 in 32 bits, .* at inputs.x"):
            model.infer({"x": np.array([1, 2**40])})


def test_types_that_openvino_narrows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NeuropodError, match="not float64"):
        packaged(tmp_path / "m.neuropod", doubled(TensorProto.DOUBLE))


def test_an_input_left_out_is_not_taken_from_an_earlier_call(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    model = model_of(nodes, {"a": (FLOAT, ["N"]), "b": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    tensors = Problem.of(
        {"a": "float32[N]", "b": {"dtype": "float32", "shape": ["N"], "optional": True}}, X_TO_Y.outputs
    )
    one = np.ones(2, np.float32)

    with load_neuropod(packaged(tmp_path / "m.neuropod", model, problem=tensors), **OPENVINO) as loaded:
        loaded.infer({"a": one, "b": one})
        with pytest.raises(InferenceError, match="b is not given"):
            loaded.infer({"a": one})


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem.of({"z": "float32[N]"}, {"y": "float32[N]"}), "no such tensor; its tensors: x"),
        (Problem.of({"x": "int32[N]"}, {"y": "float32[N]"}), r"x: int32\[N\], the model float32"),
        (Problem.of({}, {"y": "float32[2]"}), "takes x, which the problem does not name"),
    ],
    ids=["name", "type", "missing"],
)
def test_a_problem_that_contradicts_the_model_is_refused(problem: Problem, message: str, tmp_path: Path) -> None:
    with pytest.raises(NeuropodError, match=message):
        packaged(tmp_path / "m.neuropod", doubled(), problem=problem)


def with_external(location: str, **fields: int) -> bytes:
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **fields}.items():
        weight.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    return model_of(nodes, {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])}, weight)


FOUR = np.arange(4, dtype=np.float32)


def loaded(path: Path) -> Neuropod:
    return load_neuropod(path, **OPENVINO)


def test_external_data_of_the_package_is_read(tmp_path: Path) -> None:
    path = stranger(tmp_path / "m", with_external("weights.bin"), X_TO_Y, {"0/data/weights.bin": FOUR.tobytes()})

    with loaded(path) as model:
        assert model.infer({"x": FOUR})["y"].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("location", ["../../../secret.bin", "{tmp_path}/secret.bin", "absent.bin"])
def test_external_data_outside_of_the_package_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(FOUR.tobytes())
    path = stranger(tmp_path / "m", with_external(location.format(tmp_path=tmp_path)), X_TO_Y)

    with pytest.raises(ModelLoadError, match="OpenVINO refuses the model"):
        loaded(path)


def test_external_data_at_an_address_is_refused(tmp_path: Path) -> None:
    model = with_external("*/_ORT_MEM_ADDR_/*", offset=4096, length=16)
    path = stranger(tmp_path / "m", model, X_TO_Y)

    with pytest.raises(PackageFormatError, match="at an address of this process"):
        loaded(path)


def test_another_format_is_not_read_as_a_model(tmp_path: Path) -> None:
    import openvino as ov

    parameter = ov.opset13.parameter([-1], np.float32, name="x")
    result = ov.opset13.add(parameter, parameter, name="y")
    ov.save_model(ov.Model([result], [parameter]), tmp_path / "ir.xml")
    path = stranger(tmp_path / "m", (tmp_path / "ir.xml").read_bytes(), X_TO_Y)

    with pytest.raises(ModelLoadError, match="OpenVINO refuses the model"):
        loaded(path)


def test_operators_of_others_are_refused(tmp_path: Path) -> None:
    library = tmp_path / "libops.so"
    library.write_bytes(b"ELF")
    loading = {**OPENVINO, "trust": "code"}

    with pytest.raises(NeuropodError, match="runs no operators of others; pass backend='neuropod-onnx'"):
        packaged(tmp_path / "m.neuropod", doubled(), custom_ops=[library], neuropod_load_args=loading)
