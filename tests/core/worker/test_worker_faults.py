"""What a fault leaves behind: nothing that another call could see, and nothing that is missing afterwards."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_lab import Load, said
from worker_marks import shared_memory_only, until

from neuropod_core import (
    ModelClosedError,
    Neuropod,
    NeuropodError,
    SharedMemoryError,
    WorkerDiedError,
    load_neuropod,
)

LARGE = 1 << 17


def test_results_made_in_place_may_come_with_others(load: Load) -> None:
    model = load()
    for count in (LARGE, LARGE, LARGE + 9000, LARGE):
        x = np.random.default_rng(count).random(count)
        for _ in range(3):
            results = model.infer(said("part", x))
            assert np.array_equal(results["y"], x[:-1])
            assert results["calls"] > 0


@shared_memory_only("sockets have no pool")
def test_a_call_that_found_no_room_gives_nothing_back_that_is_not_its_own(load: Load) -> None:
    model = load(shared_memory_bytes=8 << 20)
    for _ in range(3):
        model.infer({"x": np.ones(LARGE)})

    with pytest.raises(SharedMemoryError, match="do not fit"):
        model.infer({"x": np.ones(10 * LARGE)})
    mine = [model.allocate("x", (LARGE,)) for _ in range(2)]
    for array in mine:
        array[...] = 7
    for _ in range(3):
        model.infer({"x": np.ones(LARGE)})

    assert [array.min() for array in mine] == [7, 7]


@shared_memory_only("sockets have no pool")
def test_a_task_that_is_cancelled_while_it_waits_for_room_gives_its_line_back(load: Load) -> None:
    model = load(slots=1, shared_memory_bytes=4 << 20)
    hogs = [model.allocate("x", (LARGE // 2,)) for _ in range(7)]

    async def cancelled() -> None:
        call = asyncio.ensure_future(model.infer_async(said("copy", np.zeros(LARGE))))
        while not model.stats()["running"]:  # noqa: ASYNC110 - it is no event of ours
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await model.infer_async(said("copy", [2.0]), timeout_s=20))["y"].tolist() == [2.0]

    asyncio.run(cancelled())

    assert model.infer(said("copy", [3.0]), timeout_s=20)["y"].tolist() == [3.0]
    assert len(hogs) == 7


@shared_memory_only("sockets have no pool")
def test_what_befalls_a_cancelled_task_in_its_thread_is_nobodys_to_hear(load: Load) -> None:
    model = load(slots=1, shared_memory_bytes=4 << 20)
    hogs = [model.allocate("x", (LARGE // 2,)) for _ in range(7)]
    heard: list[dict[str, Any]] = []

    async def cancelled() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        call = asyncio.ensure_future(model.infer_async(said("copy", np.zeros(LARGE)), timeout_s=0.3))
        while not model.stats()["running"]:  # noqa: ASYNC110 - it is no event of ours
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while model.stats()["running"]:  # noqa: ASYNC110 - it is no event of ours
            await asyncio.sleep(0.01)

    asyncio.run(cancelled())
    gc.collect()

    assert not heard
    assert len(hogs) == 7


@shared_memory_only("sockets have no pool")
def test_a_call_that_another_worker_takes_over_leaves_no_memory_behind(load: Load) -> None:
    model = load(slots=1, shared_memory_bytes=6 << 20)

    with ThreadPoolExecutor(1) as thread:
        for _ in range(8):
            pid = _pid(model)
            os.kill(pid, signal.SIGSTOP)
            call = thread.submit(model.infer, said("double", np.ones(LARGE)), timeout_s=20)
            while not model.stats()["running"]:
                time.sleep(0.005)
            time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            assert call.result()["y"].sum() == 2 * LARGE


def test_a_worker_that_served_is_replaced_however_often(load: Load) -> None:
    model = load(restarts=2)

    for _ in range(5):
        assert model.infer(said("copy", [1.0]), timeout_s=20)["y"].tolist() == [1.0]
        with pytest.raises(WorkerDiedError):
            model.infer(said("exit:3"), timeout_s=20)

    assert model.infer(said("copy", [1.0]), timeout_s=20)["y"].tolist() == [1.0]
    assert model.stats()["restarts"] == 5


@pytest.mark.parametrize("what", ["raise:deadline", "raise:long", "many:10", "many:2000"])
def test_what_goes_wrong_in_a_worker_is_said_as_in_process_and_ends_nothing(
    load: Load, package: Callable[..., Path], what: str
) -> None:
    model = load(kills_late=True)
    with load_neuropod(package()) as here:
        expected = _outcome(here, what)

    got = _outcome(model, what)

    assert type(got) is type(expected)
    assert str(got)[:400] == str(expected)[:400]
    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]
    assert model.stats()["restarts"] == 0


def _outcome(model: Neuropod, what: str) -> object:
    try:
        return sorted(model.infer(said(what, [1.0])))
    except NeuropodError as error:
        return error


def _pid(model: Neuropod) -> int:
    replicas: Any = model.stats()["replicas"]
    return int(replicas[0]["pid"])


@pytest.mark.parametrize("command", ["kill:9", "sleep:20"], ids=["death", "close"])
def test_a_call_whose_worker_is_gone_keeps_no_inputs(load: Load, command: str) -> None:
    model = load()
    x = np.ones(LARGE)
    inputs = weakref.ref(x)

    def fails(x: np.ndarray) -> None:
        with suppress(WorkerDiedError, ModelClosedError):
            model.infer(said(command, x))

    gc.disable()
    try:
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(fails, x)
            if command == "sleep:20":
                until(lambda: model.stats()["running"] == 1)
                threading.Thread(target=model.close).start()
            call.result(20)
        del x, call
        until(lambda: inputs() is None)
    finally:
        gc.enable()
