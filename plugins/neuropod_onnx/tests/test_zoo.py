"""Models of many kinds, packaged and run, against ONNX Runtime run by hand on the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from neuropod_core import PackagingError, load_neuropod
from neuropod_onnx import create_onnx_neuropod

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
HALF, BRAIN = TensorProto.FLOAT16, TensorProto.BFLOAT16
CALLS = 3  # The third call finds its buffers bound.
LATEST = onnx.defs.onnx_opset_version()
Made = tuple[Any, dict[str, Any]]
ZOO: dict[str, tuple[str, Callable[[Any], Made]]] = {}


def zoo(shows: str) -> Callable[[Callable[[Any], Made]], Callable[[Any], Made]]:
    """Enter a function that gives a model and inputs for it."""

    def enter(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
        ZOO[make.__name__] = shows, make
        return make

    return enter


def _random(*shape: int, seed: int = 3, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _ml(opset: int = 17, ml: int = 3) -> dict[str, Any]:
    return {"opset_imports": [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", ml)]}


@zoo("convolutions, normalisation and pooling")
def cnn(build: Any) -> Made:
    n = build.node
    nodes = [
        n("Conv", "x k", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        n("BatchNormalization", "c g b m v", "normal"),
        n("LeakyRelu", "normal", "r"),
        n("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        n("GlobalAveragePool", "p", "a"),
        n("Flatten", "a", "y"),
    ]
    held = [("k", _random(8, 3, 3, 3)), *((name, np.abs(_random(8, seed=i)) + 0.5) for i, name in enumerate("gbmv"))]
    inputs = {"x": (FLOAT, ["N", 3, "height", "width"])}
    return build.model(nodes, inputs, {"y": (FLOAT, ["N", 8])}, *held), {"x": _random(2, 3, 16, 24)}


@zoo("the LSTM operator both ways, with lengths, states in and out")
def lstm(build: Any) -> Made:
    nodes = [build.node("LSTM", "x w r b lengths h0 c0", "y h c", hidden_size=5, direction="bidirectional")]
    held = [("w", _random(2, 20, 4)), ("r", _random(2, 20, 5)), ("b", _random(2, 40))]
    state = (FLOAT, [2, "N", 5])
    inputs = {"x": (FLOAT, ["T", "N", 4]), "lengths": (TensorProto.INT32, ["N"]), "h0": state, "c0": state}
    model = build.model(nodes, inputs, {"y": (FLOAT, ["T", 2, "N", 5]), "h": state, "c": state}, *held)
    given = {"x": _random(6, 3, 4), "lengths": np.array([6, 2, 4], np.int32)}
    return model, {**given, "h0": _random(2, 3, 5, seed=4), "c0": _random(2, 3, 5, seed=5)}


@zoo("attention of two heads with a mask, by matrix products")
def attention(build: Any) -> Made:
    n = build.node
    nodes = [
        *(n("MatMul", f"x w{part}", f"f{part}") for part in "qkv"),
        *(n("Reshape", f"f{part} heads", f"h{part}") for part in "qkv"),
        *(n("Transpose", f"h{part}", part, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]) for part in "qkv"),
        n("MatMul", "q k", "scores"),
        n("Where", "mask scores low", "masked"),
        n("Softmax", "masked", "weights", axis=-1),
        n("MatMul", "weights v", "mixed"),
        n("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
        n("Reshape", "back whole", "y"),
    ]
    held = [*((f"w{part}", _random(8, 8, seed=i)) for i, part in enumerate("qkv")), ("low", np.float32(-1e9))]
    held += [("heads", np.array([0, 0, 2, 4])), ("whole", np.array([0, 0, 8]))]
    inputs = {"x": (FLOAT, ["N", "T", 8]), "mask": (BOOL, ["N", 1, 1, "T"])}
    outputs = {"y": (FLOAT, ["N", "T", 8]), "weights": (FLOAT, ["N", 2, "T", "T"])}
    mask = np.arange(5)[None, None, None, :] < np.array([5, 3])[:, None, None, None]
    return build.model(nodes, inputs, outputs, *held), {"x": _random(2, 5, 8), "mask": mask}


@zoo("a loop that runs until a value says stop, with a length of its own")
def loop(build: Any) -> Made:
    value, n = helper.make_tensor_value_info, build.node
    body = helper.make_graph(
        [n("Add", "total step", "more"), n("Less", "more limit", "go_on"), n("Identity", "more", "seen")],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("total", FLOAT, [])],
        [value("go_on", BOOL, []), value("more", FLOAT, []), value("seen", FLOAT, [])],
    )
    nodes = [n("Loop", "most yes start", "last all", body=body)]
    held = [("most", np.array(50)), ("yes", np.array(True))]
    inputs: dict[str, Any] = {name: (FLOAT, []) for name in ("start", "step", "limit")}
    model = build.model(nodes, inputs, {"last": (FLOAT, []), "all": (FLOAT, ["steps"])}, *held)
    return model, {
        "start": np.array(0.5, np.float32),
        "step": np.array(0.75, np.float32),
        "limit": np.array(4, np.float32),
    }


@zoo("a branch chosen by the input, whose sides have other shapes")
def branch(build: Any) -> Made:
    value, n = helper.make_tensor_value_info, build.node
    sides = {
        "then_branch": helper.make_graph([n("Neg", "x", "t")], "then", [], [value("t", FLOAT, None)]),
        "else_branch": helper.make_graph([n("Concat", "x x", "e", axis=0)], "else", [], [value("e", FLOAT, None)]),
    }
    model = build.model(
        [n("ReduceSum", "x", "sum", keepdims=0), n("Greater", "sum zero", "which"), n("If", "which", "y", **sides)],
        {"x": (FLOAT, ["N"])},
        {"y": (FLOAT, ["M"])},
        ("zero", np.float32(0)),
    )
    return model, {"x": np.array([-1, -2, 1], np.float32)}


@zoo("a scan over rows with a running sum")
def scan(build: Any) -> Made:
    value, n = helper.make_tensor_value_info, build.node
    row = ["D"]
    body = helper.make_graph(
        [n("Add", "state x_t", "next"), n("Identity", "next", "y_t")],
        "body",
        [value("state", FLOAT, row), value("x_t", FLOAT, row)],
        [value("next", FLOAT, row), value("y_t", FLOAT, row)],
    )
    nodes = [n("Scan", "first x", "last y", body=body, num_scan_inputs=1)]
    inputs, outputs = (
        {"first": (FLOAT, row), "x": (FLOAT, ["T", "D"])},
        {"last": (FLOAT, row), "y": (FLOAT, ["T", "D"])},
    )
    return build.model(nodes, inputs, outputs), {"first": _random(3), "x": _random(4, 3, seed=9)}


@zoo("text in and out: lower case without stop words")
def text(build: Any) -> Made:
    attributes = {"case_change_action": "LOWER", "is_case_sensitive": 0, "stopwords": ["the", "und"], "locale": "C"}
    model = build.model(
        [build.node("StringNormalizer", "s", "t", **attributes)], {"s": (STRING, ["N"])}, {"t": (STRING, ["M"])}
    )
    return model, {"s": np.array(["The", "Quick", "und", "BROWN", "Fox"], object)}


@zoo("labels to numbers and back (ai.onnx.ml)")
def labels(build: Any) -> Made:
    words, numbers = ["ant", "bär", "猫"], [3, 5, 7]
    nodes = [
        build.node(
            "LabelEncoder", "s", "i", domain="ai.onnx.ml", keys_strings=words, values_int64s=numbers, default_int64=-1
        ),
        build.node(
            "LabelEncoder", "i", "t", domain="ai.onnx.ml", keys_int64s=numbers, values_strings=words, default_string="?"
        ),
    ]
    model = build.model(nodes, {"s": (STRING, ["N"])}, {"i": (INT64, ["N"]), "t": (STRING, ["N"])}, **_ml())
    return model, {"s": np.array(["猫", "ant", "zebra", "bär"], object)}


@zoo("a forest that votes, with labels of text and their scores (ai.onnx.ml)")
def forest(build: Any) -> Made:
    trees = {
        "nodes_treeids": [0, 0, 0, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 0, 1, 2],
        "nodes_featureids": [0, 0, 0, 1, 0, 0],
        "nodes_values": [0.25, 0.0, 0.0, -0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
        "nodes_truenodeids": [1, 0, 0] * 2,
        "nodes_falsenodeids": [2, 0, 0] * 2,
        "class_treeids": [0, 0, 1, 1],
        "class_nodeids": [1, 2, 1, 2],
        "class_ids": [0, 1, 1, 2],
        "class_weights": [0.5, 0.25, 0.75, 0.5],
        "classlabels_strings": ["red", "grün", "blue"],
        "post_transform": "SOFTMAX",
    }
    nodes = [build.node("TreeEnsembleClassifier", "x", "label scores", domain="ai.onnx.ml", **trees)]
    outputs = {"label": (STRING, ["N"]), "scores": (FLOAT, ["N", 3])}
    return build.model(nodes, {"x": (FLOAT, ["N", 2])}, outputs, **_ml()), {"x": _random(6, 2)}


@zoo("int8 between quantizers and dequantizers (QDQ), by onnxruntime.quantization")
def quantized(build: Any) -> Made:
    quantization: Any = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        rows = iter([{"x": _random(8, 64, seed=i)} for i in range(4)])

        def get_next(self) -> Any:
            return next(self.rows, None)

    folder = Path(build.folder)
    onnx.save(build.mlp(), folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Reader(), quant_format=quantization.QuantFormat.QDQ
    )
    model = onnx.load(folder / "int8.onnx")
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    return model, {"x": _random(3, 64)}


@zoo("float16 all the way")
def half(build: Any) -> Made:
    nodes = [build.node("MatMul", "x w", "h"), build.node("Tanh", "h", "y")]
    held = ("w", _random(4, 3, dtype=np.float16))
    model = build.model(nodes, {"x": (HALF, ["N", 4])}, {"y": (HALF, ["N", 3])}, held)
    return model, {"x": _random(2, 4, dtype=np.float16)}


@zoo("bfloat16 in and out, float32 inside")
def brain(build: Any) -> Made:
    if not hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        pytest.skip("this onnxruntime takes no bfloat16")
    nodes = [
        build.node("Cast", "x", "f", to=FLOAT),
        build.node("MatMul", "f w", "h"),
        build.node("Cast", "h", "y", to=BRAIN),
    ]
    model = build.model(nodes, {"x": (BRAIN, ["N", 4])}, {"y": (BRAIN, ["N", 3])}, ("w", _random(4, 3)))
    return model, {"x": _random(2, 4).astype(ml_dtypes.bfloat16)}


@zoo("a default where an input is left out")
def default(build: Any) -> Made:
    inputs = {"x": (FLOAT, ["N"]), "scale": (FLOAT, [1])}
    held = ("scale", np.array([3], np.float32))
    return build.model([build.node("Mul", "x scale", "y")], inputs, {"y": (FLOAT, ["N"])}, held), {"x": _random(4)}


@zoo("results of a length that depends on values")
def nonzero(build: Any) -> Made:
    nodes = [build.node("NonZero", "x", "where"), build.node("TopK", "x k", "best index", axis=0)]
    outputs = {"where": (INT64, [1, "M"]), "best": (FLOAT, ["K"]), "index": (INT64, ["K"])}
    model = build.model(nodes, {"x": (FLOAT, ["N"]), "k": (INT64, [1])}, outputs)
    return model, {"x": np.array([0, 2, 0, -1, 5], np.float32), "k": np.array([2])}


@zoo("batches of no rows")
def empty(build: Any) -> Made:
    return build.mlp(), {"x": np.empty((0, 64), np.float32)}


@zoo("a function that the model brings along")
def function(build: Any) -> Made:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = [build.node("Mul", "a a", "q"), build.node("Add", "q a", "b")]
    own = helper.make_function("own", "SquareAndMore", ["a"], ["b"], inner, opsets[:1])
    nodes = [build.node("SquareAndMore", "x", "h", domain="own"), build.node("SquareAndMore", "h", "y", domain="own")]
    kind = (FLOAT, ["N"])
    return build.model(nodes, {"x": kind}, {"y": kind}, functions=[own], opset_imports=opsets), {"x": _random(4)}


@zoo("an operator of ONNX Runtime's own domain (com.microsoft)")
def contributed(build: Any) -> Made:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    kind = (FLOAT, ["N", 4])
    nodes = [build.node("BiasGelu", "x b", "y", domain="com.microsoft")]
    return build.model(nodes, {"x": kind}, {"y": kind}, ("b", _random(4)), opset_imports=opsets), {"x": _random(2, 4)}


@zoo("every integer, and float64, cast and given back")
def numbers(build: Any) -> Made:
    names = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "DOUBLE"]
    nodes = [build.node("Cast", "x", name.lower(), to=getattr(TensorProto, name)) for name in names]
    outputs = {name.lower(): (getattr(TensorProto, name), ["N"]) for name in names}
    return build.model(nodes, {"x": (FLOAT, ["N"])}, outputs), {"x": np.array([0, 1, 100], np.float32)}


# -- the comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_packaged_model_agrees_with_onnxruntime(name: str, build: Any, tmp_path: Path, zoo_row: Any) -> None:
    shows, make = ZOO[name]
    build.folder = tmp_path
    model, inputs = make(build)
    difference = _compared(tmp_path, model, inputs)
    zoo_row(framework="ONNX", model=name, shows=shows, platform="onnx", difference=difference)

    assert difference == 0


@pytest.mark.parametrize("opset", range(7, LATEST + 1))
def test_every_opset_that_onnxruntime_takes_is_taken(opset: int, build: Any, tmp_path: Path, zoo_row: Any) -> None:
    nodes = [build.node("Gemm", "x w b", "h"), build.node("Relu", "h", "r"), build.node("Softmax", "r", "y", axis=1)]
    kinds = {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 3])}
    versions = {"opset_imports": [helper.make_opsetid("", opset)], "ir_version": 3 if opset < 9 else 8}
    model = build.model(nodes, *kinds, ("w", _random(4, 3)), ("b", _random(3)), **versions)
    if versions["ir_version"] == 3:  # As long as there was no version 4, every initializer was an input, too.
        model.graph.input.extend(helper.make_tensor_value_info(t.name, FLOAT, t.dims) for t in model.graph.initializer)
    try:
        onnxruntime.InferenceSession(model.SerializeToString())
    except Exception:  # noqa: BLE001 - its classes come and go with versions
        with pytest.raises(PackagingError, match=r"[Oo]pset"):
            _compared(tmp_path, model, {})
        return
    difference = _compared(tmp_path, model, {"x": _random(2, 4)})
    shows = "one graph in every operator set from 7 on that ONNX Runtime takes"
    zoo_row(framework="ONNX", model="opsets", shows=shows, platform="onnx", difference=difference)

    assert difference == 0


@pytest.mark.parametrize("version", range(3, onnx.IR_VERSION + 1))
def test_every_version_of_the_format_that_onnxruntime_takes_is_taken(version: int, build: Any, tmp_path: Path) -> None:
    kinds = {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])}
    opset = 7 if version < 4 else 11
    model = build.model(
        [build.node("Abs", "x", "y")], *kinds, ir_version=version, opset_imports=[helper.make_opsetid("", opset)]
    )
    try:
        onnxruntime.InferenceSession(model.SerializeToString())
    except Exception:  # noqa: BLE001 - its classes come and go with versions
        with pytest.raises(PackagingError, match=r"IR version"):
            _compared(tmp_path, model, {})
        return

    assert _compared(tmp_path, model, {"x": _random(2)}) == 0


def test_tensors_outside_of_the_file_agree(build: Any, tmp_path: Path, zoo_row: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(build.mlp(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    create_onnx_neuropod(neuropod_path=tmp_path / "m.neuropod", model_name="m", model_path=path)
    difference = _difference(tmp_path / "m.neuropod", onnxruntime.InferenceSession(path), {"x": _random(3, 64)})
    shows = "tensors in a file beside the model"
    zoo_row(framework="ONNX", model="external_data", shows=shows, platform="onnx", difference=difference)

    assert difference == 0


def test_sequences_cannot_be_expressed(build: Any, tmp_path: Path, zoo_row: Any) -> None:
    model = build.model([build.node("SequenceConstruct", "x", "y")], {"x": (FLOAT, ["N"])}, {})
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["N"]))
    model.graph.output.append(helper.make_value_info("y", kind))
    with pytest.raises(PackagingError, match="which no tensor of a problem can be"):
        _compared(tmp_path, model, {})
    reason = "a problem is made of tensors, and the result is a sequence"
    zoo_row(framework="ONNX", model="sequence", shows="a sequence as a result", platform="onnx", reason=reason)


def _compared(folder: Path, model: Any, inputs: dict[str, Any]) -> float:
    create_onnx_neuropod(neuropod_path=folder / "m.neuropod", model_name="m", model=model)
    return _difference(folder / "m.neuropod", onnxruntime.InferenceSession(model.SerializeToString()), inputs)


def _difference(package: Path, session: Any, inputs: dict[str, Any]) -> float:
    wanted = _by_hand(session, inputs)
    with load_neuropod(package, trust="data") as loaded:
        found = [loaded.infer(inputs) for _ in range(CALLS)]

    assert all(results.keys() == wanted.keys() for results in found)
    return max(_apart(results[name], array) for results in found for name, array in wanted.items())


def _by_hand(session: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    names = [node.name for node in session.get_outputs()]
    if not any("bfloat16" in node.type for node in session.get_inputs()):
        return dict(zip(names, session.run(names, inputs), strict=True))
    binding = session.io_binding()
    for name, array in inputs.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BRAIN)
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    raw = [(value.shape(), value) for value in binding.get_outputs()]
    return {name: _words(shape, value) for name, (shape, value) in zip(names, raw, strict=True)}


def _words(shape: list[int], value: Any) -> Any:
    import ctypes

    words = (ctypes.c_uint16 * int(np.prod(shape))).from_address(value.data_ptr())
    return np.array(words, np.uint16).view(ml_dtypes.bfloat16).reshape(shape)


def _apart(found: Any, wanted: Any) -> float:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    if found.dtype == object:
        return 0.0 if found.tolist() == wanted.tolist() else float("inf")
    if found.size == 0:
        return 0.0
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
