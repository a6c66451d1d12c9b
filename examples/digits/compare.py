"""Runs packages over the held-out digits, all through the same lines, and compares them with their frameworks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns

import numpy as np

from neuropod_core import Array, Neuropod, load_neuropod
from scans import Scans

__all__ = ["TOLERANCE", "Entry", "Result", "run"]

TOLERANCE = 1e-6
LEAST_ROUNDS, ROUNDS = 10, 300
MOST_S = 2.0
ROTATION = 8

Scores = Callable[[Array], Array]
"""From images to scores."""


@dataclass(frozen=True)
class Entry:
    """A package, what its model was made with, and the framework run by hand on the same model."""

    path: Path
    made_with: str
    by_hand: Scores


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    package: str
    made_with: str
    platform: str
    framework_version: str
    accuracy: float
    largest_difference: float
    by_hand_us: float
    neuropod_us: float

    @property
    def agrees(self) -> bool:
        """Whether the package gives what its framework gives."""
        return self.largest_difference <= TOLERANCE


def run(entry: Entry, held_out: Scans) -> Result:
    """Load a package, whatever it holds, and run it beside its framework."""
    with load_neuropod(entry.path, trust="code") as model:
        through = _through(model)
        scores = through(held_out.images)
        by_hand_us, neuropod_us = _microseconds((entry.by_hand, through), held_out.images)
        return Result(
            package=entry.path.name,
            made_with=entry.made_with,
            platform=model.platform,
            framework_version=model.framework_version,
            accuracy=float(np.mean(scores.argmax(axis=1) == held_out.digits)),
            largest_difference=float(np.abs(scores - entry.by_hand(held_out.images)).max()),
            by_hand_us=by_hand_us,
            neuropod_us=neuropod_us,
        )


def _through(model: Neuropod) -> Scores:
    return lambda images: model.infer({"image": images})["scores"]


def _microseconds(ways: Sequence[Scores], images: Array) -> list[float]:
    """Time calls with one image, eight fresh ones in rotation, the ways in turn; give the medians."""
    fresh = [images[place : place + 1].copy() for place in range(ROTATION)]
    deadline = perf_counter() + MOST_S
    rounds: list[list[float]] = []
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < ROUNDS and perf_counter() < deadline):
        rounds.append([_rotation_us(way, fresh) for way in ways])
    return [median(took) for took in zip(*rounds, strict=True)]


def _rotation_us(way: Scores, images: Sequence[Array]) -> float:
    start = perf_counter_ns()
    for image in images:
        way(image)
    return (perf_counter_ns() - start) / 1e3 / len(images)
