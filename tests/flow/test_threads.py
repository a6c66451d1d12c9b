"""From eight threads the answers are those of one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from neuropod_core import Array, Neuropod, load_neuropod

Opened = Callable[[str, str], Neuropod]

THREADS, CALLS = 8, 50
EXACT = ("affine", "identity", "in_place", "constant")  # With whole numbers, every sum is exact in any order.


def given(kind: str, thread: int, call: int) -> Array:
    row = np.arange(4, dtype=np.float32) + thread * CALLS + call
    return np.tile(row, (1 + call % 5, 1)) if kind == "affine" else row


@pytest.mark.parametrize("kind", EXACT)
def test_eight_threads_get_the_answers_of_one(opened: Opened, platform: str, kind: str) -> None:
    model, ready = opened(platform, kind), Barrier(THREADS)
    inputs = [[given(kind, thread, call) for call in range(CALLS)] for thread in range(THREADS)]
    expected = [[model.infer({"x": x})["y"] for x in calls] for calls in inputs]

    def run(calls: list[Array]) -> list[Array]:
        ready.wait()
        return [model.infer({"x": x})["y"] for x in calls]

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(run, inputs))

    for calls, wanted in zip(answers, expected, strict=True):
        for answer, right in zip(calls, wanted, strict=True):
            np.testing.assert_array_equal(answer, right)


def test_eight_threads_may_load_one_package_at_once(write: Callable[..., Path], platform: str) -> None:
    path, x = write(platform, "affine"), np.ones((1, 4), np.float32)

    def run(_: int) -> Array:
        with load_neuropod(path, trust="code") as model:
            return model.infer({"x": x})["y"]

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(run, range(THREADS)))

    assert len({answer.tobytes() for answer in answers}) == 1
