"""The conformance suite of this backend (extra ``[testing]``): ``neuropod plugins check onnx`` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from neuropod_core import DType, Problem, TensorSpec
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_onnx._types import ELEMENT_TYPES
from neuropod_onnx.packagers import create_onnx_neuropod

__all__ = ["TestOnnx"]

_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}
_HELD = {"one": np.ones(1, np.float32), "y": np.array([1, 2, 3], np.float32), "three": np.array([3])}
_NODES: dict[StandardModel, tuple[tuple[str, str, str], ...]] = {
    StandardModel.ADD: (("Add", "x y", "sum"), ("Sub", "x y", "difference")),
    StandardModel.IN_PLACE: (("Add", "x one", "y"),),
    StandardModel.BUFFER: (("Identity", "x", "y"),),
    StandardModel.CONSTANT: (),
    StandardModel.FAILING: (("Reshape", "x three", "z"), ("Add", "z z", "y")),
}
_INITIALIZERS = {StandardModel.IN_PLACE: "one", StandardModel.CONSTANT: "y", StandardModel.FAILING: "three"}


class TestOnnx(BackendTests):
    """ONNX Runtime, whichever release is installed."""

    platform = "onnx"
    distribution = "neuropod-onnx"
    known_gaps = (
        {}
        if hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")
        else {
            "test_numbers_come_back_as_they_went_in[bfloat16]": "needs onnxruntime 1.20",
            "test_native_numbers_come_back_as_they_went_in": "bfloat16 needs onnxruntime 1.20",
        }
    )

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model as a graph of a few nodes."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            create_onnx_neuropod(
                neuropod_path=path, model_name=model.value, model=_graph(model, problem), problem=problem
            )

        return write


def _graph(model: StandardModel, problem: Problem) -> Any:
    pairs = zip(problem.inputs, problem.outputs, strict=False)
    nodes = _NODES.get(model, tuple(("Identity", given.name, taken.name) for given, taken in pairs))
    held = [_INITIALIZERS[model]] if model in _INITIALIZERS else []
    graph = helper.make_graph(
        [helper.make_node(operator, given.split(), [taken]) for operator, given, taken in nodes],
        model.value,
        _declared(problem.inputs),
        _declared(problem.outputs),
        [numpy_helper.from_array(_HELD[name], name) for name in held],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _declared(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
    kinds = [(spec.name, _NUMBERS[DType(spec.dtype)], list(spec.shape)) for spec in specs]
    return [helper.make_tensor_value_info(*kind) for kind in kinds]
