"""The conformance suite of this backend (extra ``[testing]``): ``neuropod plugins check python`` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuropod_core import Problem
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_python.packagers import create_python_neuropod

__all__ = ["TestPython"]

_ENTRY = """
import numpy as np


def identity(data_path):
    return lambda **inputs: {f"y{name[1:]}": value for name, value in inputs.items()}


def add(data_path):
    return lambda x, y: {"sum": x + y, "difference": x - y}


def in_place(data_path):
    def model(x):
        x += 1
        return {"y": x}

    return model


class Buffer:
    def __init__(self):
        self.held = np.zeros(3, np.float32)

    def __call__(self, x):
        self.held[:] = x
        return {"y": self.held}


def buffer(data_path):
    return Buffer()


def constant(data_path):
    held = {"y": np.array([1, 2, 3], np.float32)}
    return lambda x: held


def failing(data_path):
    return lambda x: {"y": x + np.ones(3, np.float32) * x}
"""


class TestPython(BackendTests):
    """Python code in this interpreter."""

    platform = "python"
    distribution = "neuropod-python"

    @pytest.fixture
    def write_model(self, tmp_path: Path) -> WriteModel:
        """Give the function that writes a standard model as a package with one module."""
        root = tmp_path / "source"
        (root / "standard").mkdir(parents=True)
        (root / "standard" / "entry.py").write_text(_ENTRY)

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            create_python_neuropod(
                neuropod_path=path,
                model_name=model.value,
                entrypoint_package="standard.entry",
                entrypoint=model.value,
                code_path_spec=[{"python_root": root, "dirs_to_package": ["standard"]}],
                problem=problem,
            )

        return write
