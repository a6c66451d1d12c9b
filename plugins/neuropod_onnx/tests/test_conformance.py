"""The suite that every backend passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from neuropod_core import DType, Problem, TensorSpec
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_onnx import create_onnx_neuropod
from neuropod_onnx.contents import ELEMENT_TYPES

_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}
_OLD = not hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")


def _kinds(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    return {spec.name: (_NUMBERS[DType(spec.dtype)], list(spec.shape)) for spec in specs}


class TestOnnx(BackendTests):
    platform = "onnx"
    known_gaps = {"test_numbers_come_back_as_they_went_in[bfloat16]": "needs onnxruntime 1.20"} if _OLD else {}

    @pytest.fixture
    def write_model(self, build: Any) -> WriteModel:
        one = ("one", np.ones(1, np.float32))
        held = ("y", np.array([1, 2, 3], np.float32))
        node = build.node
        models = {
            StandardModel.ADD: ([node("Add", "x y", "sum"), node("Sub", "x y", "difference")], ()),
            StandardModel.IN_PLACE: ([node("Add", "x one", "y")], (one,)),
            StandardModel.BUFFER: ([node("Identity", "x", "y")], ()),
            StandardModel.CONSTANT: ([], (held,)),
            StandardModel.FAILING: (
                [node("Reshape", "x three", "z"), node("Add", "z z", "y")],
                (("three", np.array([3])),),
            ),
        }

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            pairs = zip(problem.inputs, problem.outputs, strict=False)
            identity = [node("Identity", given.name, taken.name) for given, taken in pairs]
            nodes, initializers = models.get(model, (identity, ()))
            graph = build.model(nodes, _kinds(problem.inputs), _kinds(problem.outputs), *initializers)
            create_onnx_neuropod(neuropod_path=path, model_name=model.value, model=graph, problem=problem)

        return write
