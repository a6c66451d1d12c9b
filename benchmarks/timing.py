"""Compares ways of doing the same thing inside one run, so that whatever disturbs the machine disturbs all of them.

Blocks of a few milliseconds alternate in random order, many rounds of them. A block goes through the inputs in rotation
and gives the median rotation; a contender's figure is the median of its blocks. Differences are taken between blocks of
the same round, which lie milliseconds apart, and their median is what is reported.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter, perf_counter_ns, sleep
from typing import Any

__all__ = ["Contender", "Effort", "Spread", "interleaved", "milliseconds", "sampled"]

_INPUTS_IN_ROTATION = 8
_FEWEST_ROUNDS = 15
_PAUSE_S = 0.003  # Idle threads of a framework spin for a while; they must not do so in another's block.


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds, block_s
        How many rounds of blocks, and how long a block takes.
    most_s
        What one comparison may take; slow contenders get fewer rounds.
    repetitions, gigabytes
        For what takes seconds: how often, and on how much.
    """

    rounds: int
    block_s: float
    most_s: float
    repetitions: int
    gigabytes: float

    @classmethod
    def full(cls) -> Effort:
        """Measure as the published figures were."""
        return cls(rounds=150, block_s=0.004, most_s=20.0, repetitions=15, gigabytes=1.0)

    @classmethod
    def quick(cls) -> Effort:
        """See that everything runs, and get a first impression."""
        return cls(rounds=25, block_s=0.002, most_s=2.0, repetitions=5, gigabytes=0.1)


@dataclass(frozen=True)
class Contender:
    """One way: what to call with each of the inputs, and what to hold open around a block of calls."""

    call: Callable[[Any], object]
    inputs: Sequence[Any]
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    def __post_init__(self) -> None:
        if len(self.inputs) != _INPUTS_IN_ROTATION:
            raise ValueError(f"expected {_INPUTS_IN_ROTATION} inputs in rotation, got {len(self.inputs)}")


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up some values."""
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)


def interleaved(contenders: dict[str, Contender], effort: Effort, seed: int = 0) -> dict[str, list[float]]:
    """Measure all contenders, block by block in random order: microseconds a call, one figure for each round."""
    order, shuffled = list(contenders), random.Random(seed)  # noqa: S311 - no secret
    rotations = {name: _rotations(contender, effort.block_s) for name, contender in contenders.items()}
    blocks: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = perf_counter() + effort.most_s
    for done in range(effort.rounds):
        if done >= _FEWEST_ROUNDS and perf_counter() > deadline:
            break
        shuffled.shuffle(order)
        for name in order:
            sleep(_PAUSE_S)
            blocks[name].append(_block_us(contenders[name], rotations[name]))
    return blocks


def sampled(steps: dict[str, Callable[[], object]], repetitions: int, seed: int = 0) -> dict[str, list[float]]:
    """Measure what takes long, once in a round each, in random order: milliseconds."""
    order, shuffled = list(steps), random.Random(seed)  # noqa: S311 - no secret
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions):
        shuffled.shuffle(order)
        for name in order:
            samples[name].append(milliseconds(steps[name]))
    return samples


def milliseconds(step: Callable[[], object]) -> float:
    """Time one call; what it returns is dropped after the clock has stopped."""
    with _no_collection():
        start = perf_counter()
        result = step()
        end = perf_counter()
    del result
    return (end - start) * 1e3


def _rotations(contender: Contender, block_s: float) -> int:
    """Warm up, and count the rotations that fill a block."""
    with contender.around():
        deadline, took = perf_counter() + 20 * block_s, float("inf")
        while perf_counter() < deadline:
            took = min(took, *_rotation_ns(contender.call, contender.inputs, 1))
    return max(1, round(block_s * 1e9 / took))


def _block_us(contender: Contender, rotations: int) -> float:
    with contender.around(), _no_collection():
        _rotation_ns(contender.call, contender.inputs, max(1, rotations // 8))  # Caches, and threads that still spin.
        return median(_rotation_ns(contender.call, contender.inputs, rotations)) / 1e3 / len(contender.inputs)


def _rotation_ns(call: Callable[[Any], object], inputs: Iterable[Any], rotations: int) -> list[int]:
    took = []
    for _ in range(rotations):
        start = perf_counter_ns()
        for given in inputs:
            call(given)
        took.append(perf_counter_ns() - start)
    return took


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
