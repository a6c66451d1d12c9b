"""Calls without end, and the memory that both sides have in use meanwhile: ``python tests/faults --calls N``."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
from census import resident_bytes
from harness import model_files

from neuropod_core import Neuropod, Worker, load_neuropod

SAMPLES = 20
MOST_GROWTH_BYTES = 3 << 20


def soak(calls: int) -> list[dict[str, int]]:
    """Make so many calls, of every kind in turn; give what parent and worker had in use, again and again."""
    with model_files() as package, load_neuropod(package, placement=Worker(shared_memory_bytes=64 << 20)) as model:
        feeds = _feeds(model)
        samples, step = [], max(calls // SAMPLES, 1)
        for number in range(calls):
            x = feeds[number % len(feeds)]
            results = model.infer({**x, "ticket": np.array(number)})
            if int(results["ticket"]) != number:
                raise AssertionError(f"call {number} got the answer of {results['ticket']}")
            del results
            if number % step == step - 1:
                samples.append(_sample(model, number + 1))
        return samples


def grown(samples: list[dict[str, int]]) -> dict[str, int]:
    """Say what grew from the first quarter to the last by more than a few pages: nothing, if all is well."""
    quarter = max(len(samples) // 4, 1)
    first, last = samples[quarter], samples[-1]
    growth = {side: last[side] - first[side] for side in ("parent", "worker")}
    return {side: count for side, count in growth.items() if count > MOST_GROWTH_BYTES}


def as_text(samples: list[dict[str, int]]) -> str:
    """Give the samples as a table."""
    rows = [
        f"{s['calls']:>12}{s['parent'] / 1e6:>12.2f}{s['worker'] / 1e6:>12.2f}{s['pool'] / 1e6:>12.2f}" for s in samples
    ]
    return "\n".join([f"{'calls':>12}{'parent MB':>12}{'worker MB':>12}{'pool MB':>12}", *rows])


def _feeds(model: Neuropod) -> list[dict[str, Any]]:
    """Small, several sizes, large, allocated, and text."""
    allocated = model.allocate("x", (50_000,))
    allocated[...] = 1
    numbers: Callable[[int], dict[str, Any]] = lambda count: {"x": np.ones(count)}  # noqa: E731 - said three times
    words = {"words": np.array(["a", "ä", ""] * 5, object)}
    return [*[numbers(8)] * 40, *[numbers(count) for count in range(1, 30)], words, numbers(20_000), {"x": allocated}]


def _sample(model: Neuropod, calls: int) -> dict[str, int]:
    gc.collect()
    stats: Any = model.stats()
    pid = stats["replicas"][0]["pid"]
    reserved = int(stats["shared_memory_bytes"]["reserved"])
    return {"calls": calls, "parent": resident_bytes(), "worker": resident_bytes(pid), "pool": reserved}
