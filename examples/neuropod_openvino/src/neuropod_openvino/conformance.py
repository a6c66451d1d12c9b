"""The conformance suite of this backend, on packages that neuropod-onnx writes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import Problem, TensorSpec
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_onnx import create_onnx_neuropod

ELEMENTS = {"float32": "FLOAT", "float64": "DOUBLE"}


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    name = str(spec.dtype)
    return helper.make_tensor_value_info(spec.name, getattr(TensorProto, ELEMENTS.get(name, name.upper())), spec.shape)


def _nodes_of(model: StandardModel, problem: Problem) -> list[onnx.NodeProto]:
    node = helper.make_node
    if model is StandardModel.ADD:
        return [node("Add", ["x", "y"], ["sum"]), node("Sub", ["x", "y"], ["difference"])]
    if model is StandardModel.IN_PLACE:
        return [node("Add", ["x", "one"], ["y"])]
    if model is StandardModel.CONSTANT:
        return [node("Identity", ["held"], ["y"])]
    if model is StandardModel.FAILING:
        return [node("Reshape", ["x", "three"], ["z"]), node("Add", ["z", "z"], ["y"])]
    pairs = zip(problem.inputs, problem.outputs, strict=True)
    return [node("Identity", [given.name], [taken.name]) for given, taken in pairs]


INITIALIZERS = {
    "one": np.ones(1, np.float32),
    "held": np.array([1, 2, 3], np.float32),
    "three": np.array([3]),
}


class TestOpenVINO(BackendTests):
    """The suite that every backend passes."""

    platform = "onnx"
    distribution = "neuropod-openvino"
    known_gaps: ClassVar[dict[str, str]] = {
        "test_numbers_come_back_as_they_went_in[int64]": "int64 is kept in 32 bits; what needs more is refused"
    }

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            nodes = _nodes_of(model, problem)
            used = {name for node in nodes for name in node.input}
            graph = helper.make_graph(
                nodes,
                model.value,
                [_value_info(spec) for spec in problem.inputs],
                [_value_info(spec) for spec in problem.outputs],
                [numpy_helper.from_array(array, name) for name, array in INITIALIZERS.items() if name in used],
            )
            made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
            create_onnx_neuropod(
                neuropod_path=path,
                model_name=model.value,
                model=made,
                problem=problem,
                neuropod_load_args={"backend": self.distribution},
            )

        return write
