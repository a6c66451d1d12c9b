"""What a worker says is not believed: whatever it does, the parent has its own error, in time, and nothing is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_worker
import numpy as np
import pytest
from census import Census
from hostile_worker import SERVES, STARTS
from worker_lab import said

from neuropod_core import Neuropod, NeuropodError, Worker, load_neuropod
from neuropod_core.placement.worker import _process

DEADLINE_S = 1.0
SLACK_S = 8.0  # Of a machine that has other things to do.
LARGE = 20_000

_BOOT = f"import runpy, sys; sys.path[:0] = []; runpy.run_path({hostile_worker.__file__!r}, run_name='__main__')"
_HARMLESS = {"a length that is true", "many dimensions", "everywhere", "closes its streams", "fuzz", "toggles"}

Hostile = Callable[..., Neuropod]


@pytest.fixture
def hostile(package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """Load a model in a worker that does one act; afterwards, look for what it left behind."""
    monkeypatch.setattr(_process, "_BOOT", _BOOT)
    models: list[Neuropod] = []

    def load(act: str, seed: int = 0) -> Neuropod:
        placement = Worker(
            slots=2,
            restarts=2,
            start_timeout_s=2,
            kills_late=True,
            shared_memory_bytes=8 << 20,
            variables={"NEUROPOD_HOSTILE": f"{act}#{seed}"},
        )
        model = load_neuropod(package(), placement=placement)
        models.append(model)
        return model

    gc.collect()
    before = Census.now()
    yield load
    for model in models:
        model.close()
    models.clear()
    until = time.monotonic() + 5
    while (left := _left(before)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left


def _left(before: Census) -> dict[str, int]:
    gc.collect()
    return Census.now().more_than(before)


@pytest.mark.parametrize("act", STARTS, ids=lambda act: act.replace(" ", "-"))
def test_a_worker_that_starts_wrongly_is_refused(hostile: Hostile, act: str) -> None:
    started = time.monotonic()

    with pytest.raises(NeuropodError) as refused:
        hostile(act)

    assert time.monotonic() - started < 2 + SLACK_S
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("act", SERVES, ids=lambda act: act.replace(" ", "-"))
def test_a_worker_that_serves_wrongly_is_not_believed(hostile: Hostile, act: str) -> None:
    model = hostile(act)

    errors = []
    for count in (3, 3, LARGE, 3):
        started = time.monotonic()
        try:
            model.infer(said("copy", np.ones(count)), timeout_s=DEADLINE_S)
        except NeuropodError as error:
            errors.append(error)
        assert time.monotonic() - started < DEADLINE_S + SLACK_S

    assert max((len(str(error)) for error in errors), default=0) < 5000
    assert errors or act in _HARMLESS
    assert "exit code 9" not in " ".join(map(str, errors))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_lies_on_the_board_becomes_an_error_or_arrays(hostile: Hostile, seed: int) -> None:
    model = hostile("fuzz", seed)

    for number in range(60):
        try:
            results = model.infer(said("copy", np.ones((3, LARGE)[number % 2])), timeout_s=DEADLINE_S)
        except NeuropodError:
            continue
        assert all(isinstance(array, np.ndarray) for array in results.values())
