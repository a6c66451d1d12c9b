"""One slot with both of its sides in this process: what interrupts, early clocks and hostile ends do to it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from worker_lab import Load, said
from worker_marks import shared_memory_only

from neuropod_core import results
from neuropod_core.errors import DeadlineError, InferenceError
from neuropod_core.placement.worker import _board as board
from neuropod_core.placement.worker import _results
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._blocks import Lease
from neuropod_core.placement.worker._desk import SharedMemoryDesk
from neuropod_core.placement.worker._line import SharedMemoryLine
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._segments import create_segment
from neuropod_core.placement.worker._turns import Turns

LARGE = 50_000

Model = Callable[[Any, Any], Any]


@dataclass
class Pair:
    """Both sides of a slot."""

    line: SharedMemoryLine
    pool: Pool
    slot: board.Slot

    def call(self, inputs: Mapping[str, Any], deadline: float | None = None) -> Any:
        """Call, and let go of what the call used, as a connection does."""
        answer = self.line.call_through(inputs, None, deadline, spins=False)
        if self.line.used:
            self.line.clear()
        return answer

    def used_bytes(self) -> int:
        """Count what the pool has handed out, with nothing kept for a next call."""
        with self.pool._lock:
            self.pool._clear_shelves()
            self.pool._collect()
        return self.pool.used_bytes


class _Served:
    traces = False

    def __init__(self, model: Model) -> None:
        self.executor = SimpleNamespace(infer=model)

    def shippable(self, answer: Any, _: int) -> Any:
        return answer

    def unforeseen(self, error: Exception) -> InferenceError:
        return InferenceError(repr(error))


@pytest.fixture
def pair() -> Iterator[Callable[[Model], Pair]]:
    """Serve a model by a thread: ``pair(model)``; sides that do not keep the order of axes are older ones."""
    opened: list[Pair] = []

    def made(model: Model, *, keeps_order: bool = True) -> Pair:
        shape, pool = board.Shape(2), Pool(32 << 20)
        segment, ring = create_segment(0, shape.slot_bytes), Doorbell()
        slot = board.Slot(segment, shape, 0)
        line = SharedMemoryLine(slot, pool, ring, lambda _: None, spins=False, keeps_order=keeps_order)
        heard, rung = os.dup(ring.descriptor), os.dup(line.bell.ringer)
        served: Any = _Served(model)
        desk = SharedMemoryDesk(
            board.Slot(segment, shape, 0),
            Doorbell(descriptor=heard),
            Doorbell(ringer=rung),
            served,
            segment=lambda number: pool.segments[number],
            spins=False,
            keeps_order=keeps_order,
        )
        threading.Thread(target=desk.serve, daemon=True).start()
        opened.append(Pair(line, pool, line.slot))
        return opened[-1]

    yield made
    for each in opened:
        each.pool.close()


def _filled(inputs: Any, _: Any) -> Any:
    made = results.empty((int(inputs["n"][0]),), np.float32)
    made[...] = 5
    return {"y": made}


def _same(inputs: Any, _: Any) -> Any:
    return dict(inputs)


def test_room_of_an_earlier_call_is_not_granted_by_a_later_one(pair: Any) -> None:
    both = pair(_filled)
    for count in (LARGE, LARGE, 10):
        assert both.call({"n": np.array([count])})["y"].shape == (count,)
    both.used_bytes()
    others = both.pool.lend(both.pool.allocate(4 * LARGE)).owner()
    others[...] = 7

    for count in (LARGE, 10, LARGE):
        assert both.call({"n": np.array([count])})["y"].tolist() == [5] * count
    assert (others == 7).all()


@pytest.mark.parametrize("keeps_order", [True, False], ids=["keeps order", "older"])
def test_tensors_of_one_shape_may_lie_in_any_order(pair: Any, *, keeps_order: bool) -> None:
    for length in (3, 300):
        both = pair(lambda inputs, _: {"n": inputs["n"] + 0}, keeps_order=keeps_order)
        n = np.arange(2.0 * length**2).reshape(length, length, 2)
        for kind in [n, n, n.T, n.T, n.transpose(1, 0, 2), n[::-1], n.T, n, np.broadcast_to(n[0], n.shape)] * 2:
            got = both.call({"n": kind})["n"]
            assert np.array_equal(got, kind)
            as_it_lay = np.copy(kind, "K" if keeps_order and all(kind.strides) else "C")
            assert got.strides == as_it_lay.strides


def test_text_may_be_long_then_short_then_long(pair: Any) -> None:
    both = pair(lambda inputs, _: {"y": np.array(["word"] * int(inputs["n"][0]) * 2, object)})

    for count in (9000, 9000, 2, 2, 9000, 2, 9000):
        assert len(both.call({"n": np.array([count])})["y"]) == 2 * count


def test_an_interrupt_between_the_word_and_the_stroke_loses_no_slot(pair: Any, monkeypatch: Any) -> None:
    both = pair(_same)
    x = {"n": np.array([1.0])}
    for _ in range(2):
        both.call(x)

    def interrupted(_: Doorbell) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Doorbell, "ring", interrupted)
        with pytest.raises(KeyboardInterrupt):
            both.call(x)
    both.line.give_up(x)
    both.line.listen()

    assert both.line.bell.sleep(20_000)
    assert both.line.rest()


def test_an_interrupt_while_inputs_are_copied_loses_no_memory(pair: Any) -> None:
    class Interrupted(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise KeyboardInterrupt

    both = pair(lambda inputs, _: {"y": inputs["n"][:1].copy()})
    x = {"n": np.zeros(LARGE)}
    for _ in range(3):
        both.call(x)
    before = both.used_bytes()
    for _ in range(3):
        both.call(x)

    with pytest.raises(KeyboardInterrupt):
        both.call(Interrupted(x))
    both.line.give_up(x)
    assert both.line.rest()
    both.line.clear()

    assert both.used_bytes() <= before


def test_a_call_that_runs_when_its_line_is_closed_gives_back_what_it_holds(pair: Any) -> None:
    both = pair(lambda inputs, _: {"y": inputs["n"][:1].copy()})
    x = {"n": np.zeros(LARGE)}
    for _ in range(3):
        both.call(x)
    both.line.put(x, None)
    assert both.used_bytes() > 0

    both.line.close()
    both.line.clear()

    assert both.used_bytes() == 0


def test_an_interrupt_while_results_are_lent_gives_no_block_back_twice(monkeypatch: Any) -> None:
    def interrupted(shelf: Any, block: Any) -> Any:
        Lease(shelf, block)
        raise KeyboardInterrupt

    shape, pool = board.Shape(1), Pool(1 << 20)
    slot = board.Slot(create_segment(0, shape.slot_bytes), shape, 0)
    answers = _results.Results(slot, pool, lambda _: None)
    answers.grant_room(100_000, None, lambda: None)
    monkeypatch.setattr(_results, "Lease", interrupted)

    with pytest.raises(KeyboardInterrupt):
        answers.lent((0, SimpleNamespace(lease=None), {}))  # type: ignore[arg-type]  # all that it needs of an array
    answers.clear()

    assert len(answers._shelf._blocks) + pool.freed.qsize() == 1


@pytest.mark.parametrize("seconds", [3e6, 1e300, float("inf")])
def test_a_deadline_may_be_far_away(pair: Any, seconds: float) -> None:
    assert pair(_same).call({"n": np.zeros(3)}, time.monotonic() + seconds)["n"].tolist() == [0, 0, 0]


def test_a_deadline_holds_where_the_clock_of_the_loop_is_ahead(pair: Any) -> None:
    class Early(asyncio.SelectorEventLoop):
        def call_later(self, delay: float, *arguments: Any, **more: Any) -> Any:  # type: ignore[override]  # the rest as it is
            return super().call_later(max(delay - 0.005, 0), *arguments, **more)

    released = threading.Event()
    both = pair(lambda inputs, _: released.wait(20) and dict(inputs))
    loop = Early()
    started = time.monotonic()
    try:
        with pytest.raises(DeadlineError):
            loop.run_until_complete(both.line.call_async({"n": np.zeros(1)}, None, started + 0.1))
    finally:
        loop.close()
        released.set()

    assert time.monotonic() - started < 10


@shared_memory_only("sockets have no pool")
def test_tasks_cancelled_before_a_thread_begins_give_their_slot_back(load: Load) -> None:
    model = load(slots=1)

    async def everything_ends() -> None:
        call = asyncio.create_task(model.infer_async(said("copy", np.zeros(1 << 17))))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    for _ in range(3):
        asyncio.run(everything_ends())

    assert model.infer(said("copy", [3.0]), timeout_s=20)["y"].tolist() == [3.0]


# -- bells


def test_a_bell_that_somebody_else_empties_holds_up_nobody_who_has_a_deadline() -> None:
    bell = Doorbell()
    real = bell._poll

    class Thief:
        def poll(self, timeout_ms: float | None = None) -> list[tuple[int, int]]:
            ready = real.poll(timeout_ms)
            os.read(bell.descriptor, 100)
            return ready

    bell._poll = Thief()  # type: ignore[assignment]  # all that is used of one
    bell.ring()
    bell.sleep(20_000)
    bell.silence()


def test_an_end_that_was_sent_cannot_hold_up_whoever_rings() -> None:
    bell = Doorbell()
    sent = os.dup(bell.ringer)
    bell.give_away_ringer()
    with suppress(BlockingIOError):
        while True:
            os.write(sent, b"\0" * 4096)
    os.set_blocking(sent, True)

    ringing = threading.Thread(target=bell.ring, daemon=True)
    ringing.start()
    ringing.join(20)

    assert not ringing.is_alive()
    assert bell.wait()
    os.close(sent)


def test_an_end_for_listening_blocks_whatever_its_maker_set() -> None:
    made = Doorbell()
    assert not os.get_blocking(made.descriptor)
    theirs = Doorbell(descriptor=os.dup(made.descriptor))

    assert os.get_blocking(theirs.descriptor)
    made.ring()
    assert theirs.wait()
    made.give_away_descriptor()
    made.ring()
    assert theirs.sleep(20_000)


def test_a_call_that_was_never_asked_withdraws_no_other(pair: Any) -> None:
    both, x = pair(_same), {"n": np.array([1.0])}
    both.call(x)
    both.line.put(x, None)
    both.line.call += 1  # And it was interrupted.
    both.line.give_up(x)

    assert both.line.rest()
    both.line.clear()
    assert both.slot.words[board.WITHDRAWN] != both.line.call + 1


def test_what_is_to_be_forgotten_is_said_until_somebody_has_heard_it(pair: Any) -> None:
    both = pair(lambda inputs, _: {"y": np.zeros(int(inputs["n"][0]))})
    for count in range(1, 258):
        both.call({"n": np.array([float(count)])})
    large = {"n": np.array([float(LARGE)])}  # The worker forgets, and says so with results that nobody makes room for.
    both.line.put(large, None)
    both.line.ask(looks=False)
    both.line.wait(time.monotonic() + 20, looks=False)
    both.line.give_up(large)
    while not both.line.rest():
        time.sleep(0.001)
    both.line.clear()

    for count in range(1000, 1600):
        assert both.call({"n": np.array([float(count)])})["y"].size == count


def test_inputs_give_their_room_to_results(pair: Any) -> None:
    """What the model gave may lie in its inputs, against all promises: it is copied before their room is another's."""
    both = pair(_same)
    n = np.arange(float(LARGE))
    both.line.put({"n": n}, None)
    both.line.ask(looks=False)
    both.line.wait(time.monotonic() + 20, looks=False)
    before = both.used_bytes()

    assert both.line.take(time.monotonic() + 20) is None
    assert both.used_bytes() == before
    for block in both.pool.segments.values():
        spot = both.slot.words[board.GRANT_OFFSET]
        block.bytes[:spot] = 255
        block.bytes[spot + both.slot.words[board.GRANT_BYTES] :] = 255
    both.line.ask(looks=False)
    both.line.wait(time.monotonic() + 20, looks=False)
    results = both.line.take()
    assert results is not None
    assert np.array_equal(results["n"], n)


# -- several slots, one bell


def test_a_ring_that_is_used_up_for_somebody_else_leaves_nobody_waiting() -> None:
    """One caller asks and is interrupted before it looks whether to ring; another one has rung."""
    shape, pool = board.Shape(2), Pool(32 << 20)
    segment, ring = create_segment(0, 2 * shape.slot_bytes), Doorbell()
    lines = [
        SharedMemoryLine(board.Slot(segment, shape, number), pool, ring, lambda _: None, spins=False, keeps_order=True)
        for number in range(2)
    ]
    begun, go_on = threading.Event(), threading.Event()

    def model(inputs: Any, _: Any) -> Any:
        begun.set()
        go_on.wait(20)
        return dict(inputs)

    served: Any = _Served(model)
    rung = Doorbell(descriptor=os.dup(ring.descriptor))
    desks = [
        SharedMemoryDesk(
            board.Slot(segment, shape, number),
            rung,
            Doorbell(ringer=os.dup(line.bell.ringer)),
            served,
            segment=lambda number: pool.segments[number],
            spins=False,
            keeps_order=True,
        )
        for number, line in enumerate(lines)
    ]
    threading.Thread(target=Turns(desks, rung).serve, daemon=True).start()
    go_on.set()
    slow, quick = lines
    x = {"n": np.array([1.0])}
    slow.call_through(x, None, None, spins=False)
    slow.call_through(x, None, None, spins=False)
    begun.clear()
    go_on.clear()

    for line in lines:
        line.put(x, None)
    words = slow.slot.words
    slow.call += 1
    words[board.ALONE], words[board.PARENT_SLEEPS], words[board.ASKED] = 0, 1, slow.call
    quick.ask(looks=False)
    assert begun.wait(20)
    if words[board.WORKER_SLEEPS]:
        ring.ring()
    go_on.set()
    for line in lines:
        line.wait(time.monotonic() + 20, looks=False)
        results = line.take()
        assert results is not None
        assert results["n"].tolist() == [1.0]
    pool.close()
