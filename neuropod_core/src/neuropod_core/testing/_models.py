"""The small models that every backend is tried with, and the one that its author brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from neuropod_core.backend import Tensors
from neuropod_core.problem import Problem

__all__ = ["NotExpressibleError", "Sample", "StandardModel", "WriteModel"]


class StandardModel(str, Enum):
    """What a model of the suite computes; its author writes it in the framework's own way."""

    IDENTITY = "identity"
    """Every output ``y<n>`` is the input ``x<n>``, handed back as directly as the framework allows."""

    ADD = "add"
    """``sum = x + y``, ``difference = x - y``; ``float32[N, M]`` all."""

    IN_PLACE = "in_place"
    """Adds 1.0 to its input ``x: float32[N]`` in place, where the framework can, and returns that as ``y``."""

    BUFFER = "buffer"
    """Copies ``x: float32[3]`` into a buffer of its own and returns that very buffer as ``y``."""

    CONSTANT = "constant"
    """Returns the constant ``[1.0, 2.0, 3.0]`` that the model holds as ``y: float32[3]``, whatever ``x`` is."""

    FAILING = "failing"
    """Fails in the framework where ``x: float32[N]`` has any length but 3; else ``y`` is ``x`` times 2."""


class NotExpressibleError(Exception):
    """Raised by `write_model`: the framework has no such model. The checks that need it are expected failures."""


WriteModel = Callable[[StandardModel, Problem, Path], None]
"""Writes a package of a standard model, solving a problem, to a path where nothing is."""


@dataclass(frozen=True)
class Sample:
    """A model of the author's own, for frameworks that cannot express the standard ones: trees, clusters, vocabularies.

    Parameters
    ----------
    write
        Writes its package to a path where nothing is.
    inputs
        One call that succeeds; several rows where there is a batch.
    outputs
        What must come out: every output of the problem.
    rtol, atol
        How far results may be from `outputs`. Calls are compared with each other exactly.
    failing
        Inputs that fit the problem and that the framework refuses; None if there are none.
    """

    write: Callable[[Path], None]
    inputs: Tensors
    outputs: Tensors
    rtol: float = 0.0
    atol: float = 0.0
    failing: Tensors | None = None


_FLOATS = "float32[N, M]"

PROBLEMS = {
    StandardModel.ADD: Problem.of({"x": _FLOATS, "y": _FLOATS}, {"sum": _FLOATS, "difference": _FLOATS}, name="add"),
    StandardModel.IN_PLACE: Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}, name="in_place"),
    StandardModel.BUFFER: Problem.of({"x": "float32[3]"}, {"y": "float32[3]"}, name="buffer"),
    StandardModel.CONSTANT: Problem.of({"x": "float32[3]"}, {"y": "float32[3]"}, name="constant"),
    StandardModel.FAILING: Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}, name="failing"),
}


def identity_problem(dtype: str, ranks: tuple[int, ...]) -> Problem:
    """Declare an identity over one tensor of each rank: ``x2`` and ``y2`` have two dimensions."""

    def side(letter: str) -> dict[str, str]:
        return {f"{letter}{rank}": f"{dtype}[{', '.join(f'D{rank}{axis}' for axis in range(rank))}]" for rank in ranks}

    return Problem.of(side("x"), side("y"), name="identity")
