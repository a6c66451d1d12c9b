"""Calls that come again, large enough for shared memory: what is foreseen of an answer must be what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import worker_copy

from neuropod_core import InferenceError, Neuropod, OptionError, Problem, load_neuropod, plugins
from neuropod_core.testing import fake_package

COUNT = 40_000
KINDS = (1, 2, 3, worker_copy.SHORT, 4, worker_copy.FAIL, 5, worker_copy.OWN, 6, 7)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Neuropod]:
    plugins.register(worker_copy, "copy")
    problem = Problem.of({"x": "float64[N]"}, {"y": "float64[M]"}, name="copy")
    path = fake_package(tmp_path / "copy.neuropod", "copy", problem)
    with load_neuropod(path, placement="worker", cache_dir=tmp_path / "cache") as model:
        yield model
    plugins.unregister("copy")


def _given(kind: int, call: int) -> np.ndarray:
    x = np.full(COUNT, float(call))
    x[0] = kind
    return x


@pytest.mark.parametrize("kept", [0, 1, 5], ids=lambda kept: f"{kept} kept")
def test_every_answer_is_that_of_its_call(kept: int, model: Neuropod) -> None:
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for call in range(400):
        kind = KINDS[call % len(KINDS)] if call % 50 < 2 * len(KINDS) else 1
        x = _given(kind, call)
        if kind == worker_copy.FAIL:
            with pytest.raises(InferenceError, match="as asked"):
                model.infer({"x": x})
            continue
        y = model.infer({"x": x})["y"]
        held = [*held, (y, x[: COUNT // 2] if kind == worker_copy.SHORT else x)][-kept - 1 :]
        assert all(np.array_equal(got, expected) for got, expected in held)
        y[-1] = x[-1]  # It is the caller's.
    assert not any(np.shares_memory(a, b) for n, (a, _) in enumerate(held) for b, _ in held[:n])


def test_a_backend_without_native_tensors_says_so_from_a_worker(model: Neuropod) -> None:
    with pytest.raises(OptionError, match="this backend gives no native tensors - at result='native'"):
        model.infer({"x": _given(1, 1)}, result="native")


def test_slices_of_answers_keep_their_memory(model: Neuropod) -> None:
    slices = [(float(call), model.infer({"x": _given(1, call)})["y"][100:200]) for call in range(100)]

    assert all((part == call).all() for call, part in slices)


def test_two_inputs_in_turn_are_not_mixed_up(model: Neuropod) -> None:
    inputs = [model.allocate("x", (COUNT,)) for _ in range(3)]
    for number, x in enumerate(inputs):
        x[...] = number + 1

    for call in range(300):
        assert (model.infer({"x": inputs[call % 3]})["y"] == call % 3 + 1).all()
