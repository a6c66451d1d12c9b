"""Who may use a slot next: in order, with nothing lost to interrupts, to tasks that go, or to ends."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from neuropod_core.placement.worker import _gate
from neuropod_core.placement.worker._gate import Gate, Waiter
from neuropod_core.placement.worker._tasks import has_turn

T = TypeVar("T")


def give(gate: Gate[T], thing: T) -> None:
    """Give one thing back, as a connection does."""
    gate.free.append(thing)
    if gate.queue or gate.closed:
        gate.attend()


def take(gate: Gate[T], timeout_s: float | None = None) -> T | None:
    """Take one thing, as a call does."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    turn = False
    while True:
        if turn or not gate.queue:
            try:
                for thing in gate.idle:
                    return thing
            except IndexError:
                pass
        turn = gate.wait(until)
        if not turn:
            return None


def test_a_gate_that_is_closed_while_things_come_back_has_them_all() -> None:
    for _ in range(300):
        gate: Gate[int] = Gate([1, 2, 3])
        taken = [take(gate) for _ in range(3)]
        givers = [threading.Thread(target=give, args=(gate, thing)) for thing in taken]
        closer = threading.Thread(target=gate.close)
        for thread in [*givers, closer]:
            thread.start()
        for thread in [*givers, closer]:
            thread.join()

        assert (gate.free, gate.lent) == ([], 0)
        assert take(gate) is None


def test_whoever_waits_longest_is_next() -> None:
    gate: Gate[str] = Gate(["it"])
    it = take(gate)
    order: list[int] = []

    def wait(number: int) -> None:
        thing = take(gate, 20)
        assert thing is not None
        order.append(number)
        give(gate, thing)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for count, thread in enumerate(threads, 1):
        thread.start()
        while gate.waiting != count:
            time.sleep(0.001)
    assert it is not None
    give(gate, it)
    assert take(gate, 20) is not None  # A newcomer waits behind all of them.
    for thread in threads:
        thread.join()

    assert order == [0, 1, 2, 3, 4]


def test_nobody_waits_beyond_the_time() -> None:
    gate: Gate[int] = Gate([1])
    take(gate)
    started = time.monotonic()

    assert take(gate, 0.05) is None
    assert 0.05 <= time.monotonic() - started < 5
    assert gate.waiting == 0


def test_a_caller_that_is_interrupted_while_it_waits_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gate: Gate[int] = Gate([])

    class Interrupted:
        """A lock at which Ctrl-C comes when what was waited for is there."""

        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return True
            give(gate, 1)
            raise KeyboardInterrupt

        def release(self) -> None:
            """Have nothing to do."""

    with monkeypatch.context() as patched:
        patched.setattr(_gate, "_thread", SimpleNamespace(allocate_lock=Interrupted))
        with pytest.raises(KeyboardInterrupt):
            take(gate, 1.0)

    assert (gate.free, gate.waiting) == ([1], 0)
    assert take(gate, 0) == 1


def test_somebody_who_was_torn_out_of_the_queue_holds_nobody_up() -> None:
    gate: Gate[int] = Gate([])
    gone = Waiter(lambda: None)
    gone.seen -= 60  # It was interrupted as it left.
    gate.queue.append(gone)
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(take(gate, 20)))
    thread.start()
    while not gate.waiting or gate.queue[-1] is gone:
        time.sleep(0.001)

    give(gate, 7)
    thread.join()

    assert (got, gate.waiting) == ([7], 0)


def test_a_wake_up_that_was_lost_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gate, "LONGEST_NAP_S", 0.05)
    gate: Gate[int] = Gate([])
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(take(gate, 20)))
    thread.start()
    while not gate.waiting:
        time.sleep(0.001)

    gate.free.append(7)  # And whoever gave it was interrupted.
    thread.join()

    assert got == [7]


def test_a_gate_loses_nobody_among_threads_that_come_and_go_at_once() -> None:
    gate: Gate[int] = Gate([1, 2])
    done: list[int] = []

    def come_and_go() -> None:
        for _ in range(3000):
            thing = take(gate, 20)
            assert thing is not None
            give(gate, thing)
        done.append(1)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)

    assert len(done) == 6
    assert (sorted(gate.free), gate.waiting, gate.lent) == ([1, 2], 0, 0)


def test_closing_sends_everybody_away() -> None:
    gate: Gate[int] = Gate([])
    got: list[int | None] = []
    threads = [threading.Thread(target=lambda: got.append(take(gate))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while gate.waiting != 3:
        time.sleep(0.001)

    gate.close()
    for thread in threads:
        thread.join(20)

    assert got == [None, None, None]


def test_one_who_does_not_come_holds_up_nobody_for_whom_there_is_more() -> None:
    gate: Gate[int] = Gate([1, 2])
    slow = Waiter(lambda: None)
    assert gate.has_turn(slow)

    assert take(gate, 20) == 2
    assert take(gate, 0) is None  # The other one is for whoever was first.
    assert gate.free == [1]


def test_whoever_might_go_elsewhere_looks_around() -> None:
    gate: Gate[int] = Gate([])
    asked: list[int] = []

    def is_better() -> bool:
        asked.append(1)
        return len(asked) == 3

    assert gate.wait(None, is_better) is False
    assert (len(asked), gate.waiting) == (3, 0)


# -- tasks


def test_a_task_whose_loop_was_closed_is_in_nobodys_way() -> None:
    gate: Gate[int] = Gate([])
    loop = asyncio.new_event_loop()
    task = loop.create_task(has_turn(gate, None))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    give(gate, 1)  # In the thread in which the loop ran.

    assert take(gate, 0) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was meant to be


def test_a_task_that_goes_as_its_line_comes_does_not_take_it_along() -> None:
    async def goes() -> Any:
        gate: Gate[str] = Gate([])
        task = asyncio.ensure_future(has_turn(gate, None))
        await asyncio.sleep(0)
        give(gate, "line")  # It is woken, and has not seen it yet.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return gate.free, gate.waiting

    assert asyncio.run(goes()) == (["line"], 0)


def test_tasks_and_threads_wait_in_one_queue() -> None:
    async def both() -> list[str]:
        gate: Gate[int] = Gate([])
        order: list[str] = []
        loop = asyncio.get_running_loop()

        async def wait() -> None:
            assert await has_turn(gate, time.monotonic() + 20)
            order.append("task")
            give(gate, gate.free.pop())

        def wait_too() -> None:
            thing = take(gate, 20)
            assert thing is not None
            order.append("thread")
            give(gate, thing)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        thread = loop.run_in_executor(None, wait_too)
        while gate.waiting != 2:  # noqa: ASYNC110 - a thread comes
            await asyncio.sleep(0.001)
        await asyncio.to_thread(give, gate, 1)
        await asyncio.gather(task, thread)
        return order

    assert asyncio.run(both()) == ["task", "thread"]


def test_a_task_waits_no_longer_than_it_may() -> None:
    gate: Gate[int] = Gate([])

    assert asyncio.run(has_turn(gate, time.monotonic() + 0.02)) is False
    assert gate.waiting == 0
