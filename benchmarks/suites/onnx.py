"""ONNX Runtime by hand against the same file through neuropod."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import Array, Problem, Tensors, TensorSpec, load_neuropod
from neuropod_core.packagers import create_onnx_neuropod
from report import NEUROPOD, Row
from suites._framework import Ways, compared, measured, way
from timing import Effort, interleaved
from workloads import WORKLOADS, Workload, weights

__all__ = ["measure"]

OPSET = 17
IR_VERSION = 8

_NODES: dict[str, list[tuple[str, list[str], str, dict[str, Any]]]] = {
    "mlp": [
        ("Gemm", ["x", "w1", "b1"], "hidden", {}),
        ("Relu", ["hidden"], "positive", {}),
        ("Gemm", ["positive", "w2", "b2"], "y", {}),
    ],
    "add": [("Add", ["a", "b"], "y", {})],
    "conv": [
        ("Conv", ["x", "k1"], "maps", {"pads": [1, 1, 1, 1]}),
        ("Relu", ["maps"], "first", {}),
        ("Conv", ["first", "k2"], "more", {"pads": [1, 1, 1, 1]}),
        ("Relu", ["more"], "y", {}),
    ],
    "scale": [("Mul", ["x", "factor"], "y", {})],
}


def measure(effort: Effort) -> list[Row]:
    """Compare on every workload."""
    rows = [
        compared("onnx", work.title, measured(work, partial(_package, work), partial(_ways, work), effort))
        for work in WORKLOADS
    ]
    return [*rows, *(_native_row(work, effort) for work in WORKLOADS)]


def _native_row(work: Workload, effort: Effort) -> Row:
    """Compare calls whose results stay in ONNX Runtime's memory."""
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        path = Path(folder) / "model.neuropod"
        _package(work, path)
        with load_neuropod(path, cache_dir=Path(folder) / "cache") as model:
            call = partial(model.infer, result="native")
            ways = {"session._sess.run_with_ort_values": way(work, _by_values(path / "0" / "data" / "model.onnx"))}
            for name, contender in ways.items():
                given = contender.inputs[0]
                theirs, ours = np.from_dlpack(contender.call(given)), np.from_dlpack(call(given)["y"])
                np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6, err_msg=name)
            figures = interleaved({**ways, NEUROPOD: way(work, call)}, effort)
    return compared("onnx", f"{work.title}, native results", figures)


def _by_values(path: Path) -> Callable[[Tensors], Any]:
    inner = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])._sess  # noqa: SLF001
    cpu = onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()  # noqa: SLF001 - the public methods cost 20 us a call
    made = onnxruntime.capi.onnxruntime_pybind11_state.OrtValue.ortvalue_from_numpy

    def run(inputs: Tensors) -> Any:
        values = {name: made(array, cpu) for name, array in inputs.items()}
        return inner.run_with_ort_values(values, ["y"], None)[0]

    return run


def _package(work: Workload, path: Path) -> None:
    model = _model(work.kind, work.problem)
    create_onnx_neuropod(
        neuropod_path=path, model_name=work.kind, model=model, problem=work.problem, package_as_zip=False
    )


def _model(kind: str, problem: Problem) -> onnx.ModelProto:
    nodes = [helper.make_node(operator, given, [result], **more) for operator, given, result, more in _NODES[kind]]
    held = [numpy_helper.from_array(value, name) for name, value in weights(kind).items()]
    inputs, outputs = ([_value(spec) for spec in side] for side in (problem.inputs, problem.outputs))
    graph = helper.make_graph(nodes, kind, inputs, outputs, held)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)


def _ways(work: Workload, folder: Path) -> Ways:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inner = session._sess  # noqa: SLF001 - what `run` calls once it has looked at the names

    def run(inputs: Tensors) -> Array:
        result: Array = session.run(["y"], inputs)[0]
        return result

    def run_inner(inputs: Tensors) -> Array:
        result: Array = inner.run(["y"], inputs, None)[0]
        return result

    return {"session.run": way(work, run), "session._sess.run": way(work, run_inner)}
