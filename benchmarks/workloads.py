"""What every framework is asked to do: four small jobs, with the same weights everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuropod_core import Array, Problem

__all__ = ["ADD", "CONV", "MLP", "MLP_BATCH", "SCALE", "WORKLOADS", "Workload", "weights"]


@dataclass(frozen=True)
class Workload:
    """One job.

    Attributes
    ----------
    kind
        Which model does it: ``mlp``, ``add``, ``conv`` or ``scale``.
    title
        For people.
    problem, batch
        What goes in and out, and how many at once.
    """

    kind: str
    title: str
    problem: Problem
    batch: int = 1


_MLP = Problem.of({"x": "float32[N, 64]"}, {"y": "float32[N, 10]"}, name="mlp")

MLP = Workload("mlp", "MLP, batch 1", _MLP)
MLP_BATCH = Workload("mlp", "MLP, batch 32", _MLP, batch=32)
ADD = Workload(
    "add",
    "two inputs, one output",
    Problem.of({"a": "float32[N, 8]", "b": "float32[N, 8]"}, {"y": "float32[N, 8]"}, name="add"),
)
CONV = Workload(
    "conv",
    "two convolutions, 64 x 64",
    Problem.of({"x": "float32[N, 3, 64, 64]"}, {"y": "float32[N, 16, 64, 64]"}, name="conv"),
)
SCALE = Workload(
    "scale", "1 MB in, 1 MB out", Problem.of({"x": "float32[262144]"}, {"y": "float32[262144]"}, name="scale")
)

WORKLOADS = (MLP, MLP_BATCH, ADD, CONV, SCALE)

_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "mlp": {"w1": (64, 64), "b1": (64,), "w2": (64, 10), "b2": (10,)},
    "add": {},
    "conv": {"k1": (16, 3, 3, 3), "k2": (16, 16, 3, 3)},  # out, in, height, width
    "scale": {"factor": ()},
}


def weights(kind: str) -> dict[str, Array]:
    """Give the weights of a kind of model by name."""
    random = np.random.default_rng(7)
    return {name: np.asarray(random.normal(0, 0.1, shape), np.float32) for name, shape in _SHAPES[kind].items()}
