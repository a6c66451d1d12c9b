"""ONNX Runtime by hand against the same file through neuropod."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import Array, Problem, Tensors, TensorSpec
from neuropod_core.packagers import create_onnx_neuropod
from report import Row
from suites._framework import Ways, compared, measured, way
from timing import Effort
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
    return [
        compared("onnx", work.title, measured(work, partial(_package, work), partial(_ways, work), effort))
        for work in WORKLOADS
    ]


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
