"""Callers' arrays and earlier results never change, whatever the graph does with them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
HAS_BFLOAT16 = hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")
ANY, FOUR = "float32[N]", "float32[4]"
W = np.arange(4, dtype=np.float32)


def _graphs(build: Any) -> dict[str, tuple[list[Any], dict[str, Any], dict[str, str]]]:
    """Give (nodes, outputs with the model's shapes, outputs with the problem's) by name."""
    n, k = build.node, (FLOAT, ["N"])
    constant = numpy_helper.from_array(W, "c")
    return {
        "identity": ([n("Identity", "x", "y")], {"y": k}, {"y": ANY}),
        "input is output": ([n("Identity", "x", "q")], {"x": k, "q": k}, {"x": ANY, "q": ANY}),
        "reshape": ([n("Reshape", "x shape", "y")], {"y": (FLOAT, [2, 2])}, {"y": "float32[2, 2]"}),
        "squeeze": ([n("Unsqueeze", "x zero", "u"), n("Squeeze", "u zero", "y")], {"y": k}, {"y": ANY}),
        "flatten": ([n("Flatten", "x", "y", axis=0)], {"y": (FLOAT, [1, "N"])}, {"y": "float32[1, N]"}),
        "dropout": ([n("Dropout", "x", "y")], {"y": k}, {"y": ANY}),
        "in place": ([n("Relu", "x", "a"), n("Neg", "a", "b"), n("Add", "b b", "y")], {"y": k}, {"y": ANY}),
        "initializer is output": ([n("Neg", "x", "y")], {"w": (FLOAT, [4]), "y": k}, {"w": FOUR, "y": ANY}),
        "initializer": ([n("Identity", "w", "y")], {"y": (FLOAT, [4])}, {"y": FOUR}),
        "constant": ([n("Constant", "", "y", value=constant)], {"y": (FLOAT, [4])}, {"y": FOUR}),
        "folded": ([n("Add", "w w", "y")], {"y": (FLOAT, [4])}, {"y": FOUR}),
        "loop": ([n("Loop", "times true x", "y", body=_body(n))], {"y": k}, {"y": ANY}),
        "loop of no rounds": ([n("Loop", "none true x", "y", body=_body(n))], {"y": k}, {"y": ANY}),
        "branch": ([n("If", "true", "y", then_branch=_branch(n), else_branch=_branch(n))], {"y": k}, {"y": ANY}),
        "sequence": ([n("SequenceConstruct", "x", "s"), n("SequenceAt", "s zero0", "y")], {"y": k}, {"y": ANY}),
        "optional": ([n("Optional", "x", "o"), n("OptionalGetElement", "o", "y")], {"y": k}, {"y": ANY}),
        "split": ([n("Split", "x", "y", axis=0)], {"y": k}, {"y": ANY}),
        "slice": ([n("Slice", "x zero four", "y")], {"y": k}, {"y": ANY}),
        "expand": ([n("Expand", "x one", "y")], {"y": k}, {"y": ANY}),
        "concatenation of one": ([n("Concat", "x", "y", axis=0)], {"y": k}, {"y": ANY}),
        "cast to its own type": ([n("Cast", "x", "y", to=FLOAT)], {"y": k}, {"y": ANY}),
        "sum of one": ([n("Sum", "x", "y")], {"y": k}, {"y": ANY}),
        "transpose": ([n("Transpose", "x", "y")], {"y": k}, {"y": ANY}),
        "two names for one": ([n("Neg", "x", "y"), n("Identity", "y", "z")], {"y": k, "z": k}, {"y": ANY, "z": ANY}),
    }


def _body(n: Any) -> Any:
    value = helper.make_tensor_value_info
    inputs = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", FLOAT, ["N"])]
    outputs = [value("on", TensorProto.BOOL, []), value("u", FLOAT, ["N"])]
    return helper.make_graph([n("Identity", "go", "on"), n("Identity", "v", "u")], "body", inputs, outputs)


def _branch(n: Any) -> Any:
    result = helper.make_tensor_value_info("t", FLOAT, ["N"])
    return helper.make_graph([n("Identity", "x", "t")], "branch", [], [result])


def _node(op: str, inputs: str, outputs: str) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split())


CONSTANTS = {
    "shape": np.array([2, 2]),
    "zero": np.array([0]),
    "zero0": np.array(0),
    "one": np.array([1]),
    "four": np.array([4]),
    "none": np.array(0),
    "times": np.array(2),
    "true": np.array(True),
    "w": W,
}
NAMES = tuple(_graphs(type("Nodes", (), {"node": staticmethod(lambda *names, **_: _node(*names))})))


@pytest.mark.parametrize("native", [False, True], ids=["arrays", "native"])
@pytest.mark.parametrize("level", ["none", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_was_handed_over_ever_changes(
    opened: Any, build: Any, name: str, level: str, native: bool
) -> None:
    nodes, outputs, wanted = _graphs(build)[name]
    used = {text for one in nodes for text in one.input} | set(outputs)
    model = build.model(nodes, {"x": (FLOAT, ["N"])}, outputs, *[item for item in CONSTANTS.items() if item[0] in used])
    executor = opened(model, {"x": ANY}, wanted, graph_optimization_level=level)
    x = np.arange(4, dtype=np.float32) + 1

    def viewed(inputs: Any) -> Any:
        return {output: np.asarray(tensor) for output, tensor in executor.infer_native(inputs).items()}

    _check_history([viewed if native else executor.infer for _ in range(8)], x)


def test_nothing_changes_in_bfloat16_either(opened: Any, build: Any) -> None:
    if not HAS_BFLOAT16:
        pytest.skip("this onnxruntime takes no bfloat16")
    kind = (TensorProto.BFLOAT16, ["N"])
    nodes = [build.node("Identity", "x", "y"), build.node("Identity", "f", "g")]
    model = build.model(nodes, {"x": kind, "f": (FLOAT, ["N"])}, {"y": kind, "g": (FLOAT, ["N"])})
    executor = opened(model, {"x": "bfloat16[N]", "f": ANY}, {"y": "bfloat16[N]", "g": ANY})
    f = np.arange(4, dtype=np.float32)
    x = f.astype(ml_dtypes.bfloat16)
    _check_history([lambda inputs: executor.infer({**inputs, "f": f}) for _ in range(8)], x)

    assert f.tolist() == [0, 1, 2, 3]


def test_large_results_that_take_no_bound_buffers_are_owned_too(opened: Any, build: Any) -> None:
    kind = (FLOAT, ["N"])
    model = build.model([build.node("Identity", "x", "y")], {"x": kind}, {"y": kind})
    executor = opened(model, {"x": ANY}, {"y": ANY})
    _check_history([executor.infer for _ in range(4)], np.ones(50_000, np.float32))


def _check_history(calls: list[Any], x: Any) -> None:
    """Call again and again, spoil every result, and look at all that was handed over before."""
    before = x.copy()
    first: dict[str, Any] = {}
    history: list[Any] = []
    for call in calls:
        result = call({"x": x})
        first = first or {name: array.copy() for name, array in result.items()}
        for name, array in result.items():
            assert array.tolist() == first[name].tolist()
            assert not np.shares_memory(array, x)
            assert not any(np.shares_memory(array, old) for old in history)
            history.append(array)
        for array in result.values():
            array[...] = -99

        assert x.tolist() == before.tolist()
        assert all((old == -99).all() for old in history)
