"""Calls for which there is no room in shared memory at the moment: they wait, and are told when that is in vain."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from worker_lab import Load, said
from worker_marks import shared_memory_only, until

from neuropod_core import DeadlineError, Neuropod, WorkerDiedError
from neuropod_core.placement.worker._results import Results

pytestmark = shared_memory_only("sockets have no pool")


@pytest.mark.parametrize("thread_safe", [True, False], ids=["together", "in-turn"])
def test_many_large_calls_at_a_time_share_a_small_pool(load: Load, *, thread_safe: bool) -> None:
    """Whoever has its inputs there waits for room for results without them."""
    model = load(config={"thread_safe": thread_safe}, shared_memory_bytes=24 << 20)
    x = np.ones(4 << 17)  # 4 MB each way.

    with ThreadPoolExecutor(16) as threads:
        sums = list(threads.map(lambda _: model.infer(said("double", x))["y"].sum(), range(48)))

    assert set(sums) == {2.0 * x.size}


def test_results_may_take_the_room_of_the_inputs(load: Load) -> None:
    model = load(shared_memory_bytes=24 << 20)

    assert model.infer(said("double", np.ones(18 << 17)), timeout_s=20)["y"].sum() == 2 * (18 << 17)


def test_a_call_that_is_late_for_room_says_so(load: Load) -> None:
    model = load(shared_memory_bytes=16 << 20)
    held = model.allocate("x", (12 << 17,))

    with pytest.raises(
        DeadlineError, match=r"within 0.1 s \(it waited for room in shared memory\); drop results"
    ) as late:
        model.infer(said("copy", np.zeros(6 << 17)), timeout_s=0.1)
    assert late.value.timeout_s == 0.1
    del held
    assert model.infer(said("copy", np.zeros(6 << 17)))["y"].size == 6 << 17


class _Crowded:
    """A model whose pool is held by its caller, and tasks that wait for room in it."""

    def __init__(self, model: Neuropod) -> None:
        self.model, self.held = model, [model.allocate("x", (12 << 17,))]
        self._pool = model._executor._transport.pool  # type: ignore[attr-defined]  # that of a worker

    async def wait_for_claims(self, count: int) -> None:
        while len(self._pool.claims.waiting) != count:  # noqa: ASYNC110 - it is threads that come and go there
            await asyncio.sleep(0.001)

    def call(self) -> Coroutine[Any, Any, Any]:
        return self.model.infer_async(said("copy", np.ones(5 << 17)))


@pytest.fixture
def crowded(load: Load) -> _Crowded:
    return _Crowded(load(shared_memory_bytes=16 << 20, slots=8))


def test_the_time_out_of_a_task_is_one_while_its_call_waits_for_room(crowded: _Crowded) -> None:
    """What ends the call is a `CancelledError` and nothing else, since `asyncio` looks at its very type."""

    async def late() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(crowded.call(), 0.2)
        await crowded.wait_for_claims(0)
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await crowded.call()
        call = asyncio.create_task(crowded.call())
        await crowded.wait_for_claims(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await call
        assert cancelled.type is asyncio.CancelledError

    asyncio.run(late())
    assert crowded.model.infer(said("copy", np.ones(1 << 17)), timeout_s=20)["y"].size == 1 << 17


def test_tasks_that_wait_for_room_leave_the_threads_of_the_loop_to_others(crowded: _Crowded) -> None:
    async def many() -> list[Any]:
        calls = [asyncio.create_task(crowded.call()) for _ in range(8)]
        await crowded.wait_for_claims(8)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await asyncio.to_thread(crowded.held.clear)
        return await asyncio.gather(*calls)

    assert [results["y"].size for results in asyncio.run(many())] == [5 << 17] * 8


def test_whoever_waits_for_room_for_results_is_told_that_the_worker_died(load: Load) -> None:
    model = load(shared_memory_bytes=16 << 20)
    crowded = _Crowded(model)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(model.infer, said("repeat:6", np.ones(1 << 17)))
        asyncio.run(crowded.wait_for_claims(1))
        os.kill(model.description["pids"][0], signal.SIGKILL)  # type: ignore[index]  # a list

        with pytest.raises(WorkerDiedError):
            call.result(9)


@pytest.mark.parametrize("is_warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])
def test_a_call_that_waits_for_room_for_its_inputs_goes_to_the_next_worker(
    load: Load, *, in_task: bool, is_warm: bool
) -> None:
    model = load(shared_memory_bytes=16 << 20, slots=1)
    if is_warm:
        model.infer(said("copy", np.ones(1 << 17)))
    crowded = _Crowded(model)
    with ThreadPoolExecutor(1) as thread:
        one = (lambda: asyncio.run(crowded.call())) if in_task else lambda: model.infer(said("copy", np.ones(5 << 17)))
        call = thread.submit(one)
        asyncio.run(crowded.wait_for_claims(1))
        os.kill(model.description["pids"][0], signal.SIGKILL)  # type: ignore[index]  # a list
        until(lambda: model.stats()["restarts"] == 1)
        crowded.held.clear()

        assert call.result(20)["y"].size == 5 << 17


def test_a_task_that_is_given_up_with_its_loop_keeps_no_inputs(crowded: _Crowded) -> None:
    x = np.ones(5 << 17)
    inputs = weakref.ref(x)

    async def given_up(x: np.ndarray) -> None:
        call = asyncio.create_task(crowded.model.infer_async(said("copy", x)))
        await crowded.wait_for_claims(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    gc.disable()
    try:
        asyncio.run(given_up(x))
        del x
        until(lambda: inputs() is None)
    finally:
        gc.enable()


def test_large_results_that_are_copied_are_not_copied_on_the_loop(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model, threads = load(shared_memory_bytes=16 << 20), []
    take = Results.take

    def noted(results: Results) -> Any:
        threads.append(threading.current_thread())
        return take(results)

    monkeypatch.setattr(Results, "take", noted)
    inputs = said("double", np.ones(2 << 17))
    held = [asyncio.run(model.infer_async(inputs))["y"] for _ in range(6)]

    assert threads[0] is threading.main_thread()
    assert threads[-1] is not threading.main_thread()
    assert all(np.array_equal(y, 2 * inputs["x"]) for y in held)
