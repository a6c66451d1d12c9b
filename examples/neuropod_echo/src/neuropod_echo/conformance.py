"""The conformance suite of this backend: `neuropod plugins check echo` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuropod_core import Problem
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_echo.packagers import create_echo_neuropod

OUTPUTS: dict[StandardModel, dict[str, object]] = {
    StandardModel.ADD: {"sum": ["add", "x", "y"], "difference": ["subtract", "x", "y"]},
    StandardModel.IN_PLACE: {"y": ["add", "x", ["constant", 1]]},
    StandardModel.BUFFER: {"y": "x"},
    StandardModel.CONSTANT: {"y": ["constant", [1, 2, 3]]},
    StandardModel.FAILING: {"y": ["multiply", "x", ["constant", [2, 2, 2]]]},
}


class TestEcho(BackendTests):
    """The suite that every backend passes."""

    platform = "echo"

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            names = zip(problem.outputs, problem.inputs, strict=True) if model is StandardModel.IDENTITY else ()
            outputs = OUTPUTS.get(model) or {output.name: given.name for output, given in names}
            create_echo_neuropod(neuropod_path=path, model_name=model.value, problem=problem, outputs=outputs)

        return write
