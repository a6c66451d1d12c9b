"""Models that run one call at a time: callers lay down their calls, and one thread of the worker serves them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from worker_lab import Load, said
from worker_marks import shared_memory_only, until

from neuropod_core import DeadlineError, Neuropod, WorkerDiedError
from neuropod_core.placement.worker._board import ASKED
from neuropod_core.placement.worker._shared_memory_end import TAKES_TURNS

pytestmark = [
    shared_memory_only("sockets have a thread each"),
    pytest.mark.skipif(not TAKES_TURNS, reason="memory of this processor is not shown in order"),
]


@pytest.fixture
def model(load: Load) -> Neuropod:
    return load(config={"thread_safe": False}, kills_late=True)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def _lines(model: Neuropod) -> Any:
    return model._executor._only.connection.lines  # type: ignore[attr-defined]


def _call_that_runs(model: Neuropod, threads: ThreadPoolExecutor, command: str) -> Future[Any]:
    running = threads.submit(model.infer, said(command, [1.0]))
    until(lambda: any(line.runs for line in _lines(model)))
    return running


def _calls_in_store(model: Neuropod, threads: ThreadPoolExecutor, *commands: str) -> list[Future[Any]]:
    """Lay down calls one after the other, while another one runs."""
    calls = []
    for count, command in enumerate(commands, 1):
        calls.append(threads.submit(model.infer, said(command, [float(count)])))
        until(lambda count=count: model.stats()["waiting"] == count)  # type: ignore[misc]
    return calls


def test_one_thread_of_the_worker_serves_all(model: Neuropod, threads: ThreadPoolExecutor) -> None:
    few = model.infer(said("settings:threads"))["y"].tolist()
    counts = [*range(1, 99), 40_000]
    y = list(threads.map(lambda count: model.infer(said("double", np.full(count, count)))["y"], counts))

    assert few == [2.0]  # It, and the one that listens to the parent.
    assert [each.tolist() for each in y] == [[2.0 * count] * count for count in counts]
    assert model.infer(said("settings:threads"))["y"].tolist() == [2.0]


def test_calls_in_store_wait(model: Neuropod, threads: ThreadPoolExecutor) -> None:
    running = _call_that_runs(model, threads, "sleep:0.5")
    in_store = _calls_in_store(model, threads, "copy", "copy", "double")
    stats = model.stats()

    assert (stats["running"], stats["waiting"]) == (1, 3)
    assert [call.result(20)["y"].tolist() for call in (running, *in_store)] == [[1.0], [1.0], [2.0], [6.0]]
    assert (model.stats()["running"], model.stats()["waiting"]) == (0, 0)


def test_a_call_that_was_given_up_in_store_does_not_run(model: Neuropod, threads: ThreadPoolExecutor) -> None:
    before = model.description["pids"]
    running = _call_that_runs(model, threads, "sleep:0.5")

    with pytest.raises(DeadlineError, match="within 0.1 s \\(it waited for calls before it\\)"):
        model.infer(said("copy", np.zeros(300)), timeout_s=0.1)

    assert running.result(20)["note"] == "sleep 1"
    assert [str(model.infer(said("copy", np.zeros(300)))["note"]) for _ in range(2)] == ["copy 2", "copy 3"]
    assert model.description["pids"] == before  # What is late in store says nothing against the call that runs.


def test_a_task_that_is_cancelled_in_store_does_not_run(model: Neuropod) -> None:
    async def cancelled() -> list[str]:
        running = asyncio.create_task(model.infer_async(said("sleep:0.4", [1.0])))
        given_up = asyncio.create_task(model.infer_async(said("copy", [2.0])))
        await asyncio.to_thread(until, lambda: model.stats()["waiting"] == 1)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        last = asyncio.create_task(model.infer_async(said("copy", [3.0])))
        return [str((await call)["note"]) for call in (running, last)]

    assert asyncio.run(cancelled()) == ["sleep 1", "copy 2"]


def test_a_late_call_that_runs_ends_the_worker(model: Neuropod, threads: ThreadPoolExecutor) -> None:
    late = threads.submit(model.infer, said("sleep:30"), timeout_s=0.4)
    until(lambda: any(line.runs for line in _lines(model)))
    (in_store,) = _calls_in_store(model, threads, "double")

    with pytest.raises(DeadlineError, match="its worker was busy with it"):
        late.result(20)
    assert in_store.result(20)["y"].tolist() == [2.0]


def test_a_call_that_is_late_between_two_others_ends_nothing(model: Neuropod) -> None:
    """For a moment after each call none runs; only a worker that takes none for longer does not go on."""
    model.infer(said("copy"))
    connection = model._executor._only.connection  # type: ignore[attr-defined]
    late = connection.lines[1]
    late.call += 1  # As if it were asked.

    assert connection.is_innocent(late)
    until(lambda: not connection.is_innocent(late))
    model.infer(said("copy"))
    assert connection.is_innocent(late)
    late.call -= 1
    assert not connection.is_innocent(late)


def test_a_worker_that_was_stopped_is_busy_with_every_call(model: Neuropod) -> None:
    """Nothing runs there that a call could wait for."""
    model.infer(said("copy"))
    os.kill(model.description["pid"], signal.SIGSTOP)  # type: ignore[arg-type]  # an int
    for _ in range(2):  # The first one sees that it takes no call.
        with pytest.raises(DeadlineError):
            model.infer(said("copy"), timeout_s=0.2)

    assert model.infer(said("double", [1.0]), timeout_s=20)["y"].tolist() == [2.0]
    assert model.stats()["restarts"] == 1


def test_a_death_leaves_the_calls_in_store_to_the_next_worker(model: Neuropod, threads: ThreadPoolExecutor) -> None:
    running = _call_that_runs(model, threads, "sleep:0.4")
    deadly, *others = _calls_in_store(model, threads, "kill:9", "copy", "double")

    assert running.result(20)["y"].tolist() == [1.0]
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        deadly.result(20)
    assert [call.result(20)["y"].tolist() for call in others] == [[2.0], [6.0]]
    assert model.stats()["restarts"] == 1


def test_nobody_has_a_second_turn_before_the_others_have_had_the_first(
    model: Neuropod, threads: ThreadPoolExecutor
) -> None:
    def twice() -> list[int]:
        return [int(str(model.infer(said("sleep:0.2", [1.0]))["note"]).split()[1]) for _ in range(2)]

    eager = threads.submit(twice)
    until(lambda: any(line.runs for line in _lines(model)))
    others = _calls_in_store(model, threads, "sleep:0.2", "sleep:0.2")

    assert sorted(int(str(call.result(20)["note"]).split()[1]) for call in others) == [2, 3]
    assert eager.result(20) == [1, 4]


def test_results_that_need_room_are_not_mixed_up(model: Neuropod, threads: ThreadPoolExecutor) -> None:
    """Such a call has two turns, between which others have theirs."""

    def call(number: int) -> list[float]:
        y = model.infer(said(f"repeat:{1 + number * 7919 % 40_000}", [float(number)]))["y"]
        return [float(each) for each in np.unique(y)]

    assert list(threads.map(call, range(300))) == [[float(number)] for number in range(300)]


def test_a_caller_who_is_alone_may_be_joined(model: Neuropod) -> None:
    """The worker looks for the next call of the one, and hears the other one all the same."""
    done = threading.Event()
    answered = 0

    def alone() -> None:
        nonlocal answered
        while not done.is_set():
            assert model.infer(said("double", [2.0]))["y"].tolist() == [4.0]
            answered += 1

    thread = threading.Thread(target=alone)
    thread.start()
    for number in range(200):
        assert model.infer(said("copy", [float(number)]), timeout_s=20)["y"].tolist() == [float(number)]
    done.set()
    thread.join()

    assert answered > 0
    assert all(line.slot.words[ASKED] == line.call for line in _lines(model))
