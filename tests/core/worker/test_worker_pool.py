"""The pool of shared memory by itself: what is handed out, what comes back, and who waits for it in what order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from worker_marks import until

from neuropod_core.errors import ModelClosedError, SharedMemoryError
from neuropod_core.placement.worker import _claims
from neuropod_core.placement.worker._blocks import Block
from neuropod_core.placement.worker._claims import Claim
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._segments import PAGE_BYTES

QUARTER = 16 * PAGE_BYTES


class PoolMachine(RuleBasedStateMachine):
    """Blocks are handed out, kept in arrays, put on shelves and dropped, in any order."""

    blocks = Bundle("blocks")
    leases = Bundle("leases")
    LIMIT = 64 * PAGE_BYTES

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(self.LIMIT)
        self.shelves = [self.pool.shelf() for _ in range(2)]
        self.out: list[Block] = []

    def _handed_out(self, block: Block) -> Block:
        for other in self.out:
            apart = block.offset + block.nbytes <= other.offset or other.offset + other.nbytes <= block.offset
            assert block.segment is not other.segment or apart, "two hold the same bytes"
        assert block.offset + block.nbytes <= block.segment.nbytes
        self.out.append(block)
        return block

    @rule(target=blocks, nbytes=st.integers(1, LIMIT + PAGE_BYTES))
    def allocate(self, nbytes: int) -> Block | None:
        try:
            block = self.pool.allocate(nbytes, wait_s=0)
        except SharedMemoryError:
            assert self.out or nbytes > self.LIMIT * 7 // 8, "there was room"
            return None
        assert block.nbytes >= nbytes
        return self._handed_out(block)

    @rule(target=blocks, shelf=st.integers(0, 1), nbytes=st.integers(1, LIMIT))
    def take(self, shelf: int, nbytes: int) -> Block | None:
        block = self.shelves[shelf].take(nbytes)
        if block is None:
            return None
        assert nbytes <= block.nbytes <= 4 * nbytes
        return self._handed_out(block)

    @rule(block=consumes(blocks), shelf=st.none() | st.integers(0, 1))
    def put(self, block: Block | None, shelf: int | None) -> None:
        if block is not None:
            self.out.remove(block)
            self.pool.give_back(block) if shelf is None else self.shelves[shelf].put(block)

    @rule(target=leases, block=consumes(blocks), shelf=st.none() | st.integers(0, 1))
    def lend(self, block: Block | None, shelf: int | None) -> tuple[Block, list[Any]] | None:
        if block is None:
            return None
        lease = self.pool.lend(block, None if shelf is None else self.shelves[shelf])
        return block, [lease.owner()[3:].view()]

    @rule(lease=consumes(leases))
    def drop(self, lease: tuple[Block, list[Any]] | None) -> None:
        if lease is not None:
            self.out.remove(lease[0])
            lease[1].clear()

    @precondition(lambda self: not self.out)
    @rule()
    def everything_comes_back(self) -> None:
        assert self.pool.allocate(self.LIMIT * 7 // 8, wait_s=0).nbytes <= self.LIMIT
        self.teardown()
        self.__init__()  # type: ignore[misc]  # a new pool

    @invariant()
    def limits_hold(self) -> None:
        assert self.pool.total_bytes <= self.LIMIT
        assert sum(block.nbytes for block in self.out) <= self.pool.used_bytes <= self.pool.total_bytes
        assert 0 <= self.pool.lent_bytes <= self.pool.used_bytes

    def teardown(self) -> None:
        self.pool.close()


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase


@pytest.fixture
def full() -> Iterator[tuple[Pool, list[Block]]]:
    """Give a pool, and the four blocks that are all of it."""
    pool = Pool(4 * QUARTER)
    yield pool, [pool.allocate(QUARTER, wait_s=0) for _ in range(4)]
    pool.close()


@pytest.fixture
def waiting(full: tuple[Pool, list[Block]]) -> Iterator[Callable[..., Future[Block]]]:
    """Have somebody wait for memory, behind those who do already."""
    pool, _ = full
    with ThreadPoolExecutor(16) as threads:

        def one_more(nbytes: int = QUARTER, **settings: Any) -> Future[Block]:
            before = len(pool.claims.waiting)
            block = threads.submit(pool.allocate, nbytes, wait_s=20, **settings)
            until(lambda: len(pool.claims.waiting) > before)
            return block

        yield one_more


def test_whoever_waits_finds_memory_that_others_have_put_in_its_place(
    full: tuple[Pool, list[Block]], waiting: Callable[..., Future[Block]]
) -> None:
    pool, blocks = full
    mine = waiting()
    with pool._lock:
        pool.freed.put(blocks.pop())
        pool._collect()

    assert mine.result(10).nbytes == QUARTER


def test_what_comes_back_does_not_go_round_among_those_who_wait(
    full: tuple[Pool, list[Block]], waiting: Callable[..., Future[Block]]
) -> None:
    pool, blocks = full
    claims = [waiting() for _ in range(8)]
    while blocks:
        pool.give_back(blocks.pop())

    assert [claim.result(10).nbytes for claim in claims[:4]] == [QUARTER] * 4
    for claim in claims[:4]:
        pool.give_back(claim.result())
    assert [claim.result(10).nbytes for claim in claims[4:]] == [QUARTER] * 4


def test_whoever_waits_longest_is_first_and_results_come_before_inputs(
    full: tuple[Pool, list[Block]], waiting: Callable[..., Future[Block]]
) -> None:
    pool, blocks = full
    inputs, more_inputs = waiting(), waiting()
    results, more_results = waiting(for_results=True), waiting(for_results=True)
    order = [results, more_results, inputs, more_inputs]
    for number, first in enumerate(order, 1):
        pool.give_back(blocks.pop())
        assert first.result(10).nbytes == QUARTER
        assert not any(later.done() for later in order[number:])


def test_room_for_inputs_is_not_put_off_for_ever(
    full: tuple[Pool, list[Block]], waiting: Callable[..., Future[Block]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, blocks = full
    inputs = waiting()
    monkeypatch.setattr(_claims, "INSISTS_S", 0.0)  # It has waited so long.
    results = waiting(for_results=True)
    assert [claim.for_results for claim in pool.claims.waiting] == [False, True]
    pool.give_back(blocks.pop())
    pool.give_back(blocks.pop())

    assert inputs.result(10).nbytes == results.result(10).nbytes == QUARTER


def test_a_large_tensor_is_not_passed_over_by_small_ones(
    full: tuple[Pool, list[Block]], waiting: Callable[..., Future[Block]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_claims, "INSISTS_S", 1000.0)
    monkeypatch.setattr(_claims, "_AGAIN_S", 1000.0)
    pool, blocks = full
    large = waiting(3 * QUARTER)
    small = waiting()
    pool.give_back(blocks.pop())
    pool.give_back(blocks.pop())
    with pytest.raises(SharedMemoryError, match="have fewer calls at a time"):
        pool.allocate(QUARTER, wait_s=0)
    assert not small.done()
    pool.give_back(blocks.pop())

    assert large.result(10).nbytes == 3 * QUARTER
    pool.give_back(blocks.pop())
    assert small.result(10).nbytes == QUARTER


@pytest.mark.parametrize("lent", [True, False], ids=["held by callers", "in use by long calls"])
def test_nobody_waits_long_behind_one_who_waits_in_vain(
    full: tuple[Pool, list[Block]], waiting: Callable[..., Future[Block]], *, lent: bool
) -> None:
    pool, blocks = full
    held = [pool.lend(block) if lent else block for block in blocks[:2]]
    large = waiting(3 * QUARTER)
    pool.give_back(blocks[2])
    pool.give_back(blocks[3])
    for _ in range(20):
        pool.give_back(pool.allocate(QUARTER, wait_s=20))

    assert not large.done()
    while held:
        last = held.pop()
        if isinstance(last, Block):
            pool.give_back(last)
        del last
    assert large.result(10).nbytes == 3 * QUARTER


def test_whoever_waits_is_told_what_makes_that_vain(full: tuple[Pool, list[Block]]) -> None:
    pool, _ = full

    def check() -> None:
        if pool.claims.waiting:
            raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        pool.allocate(QUARTER, wait_s=20, check=check)
    assert not pool.claims.waiting


def test_what_is_kept_for_the_next_call_is_not_held_by_a_caller() -> None:
    pool = Pool(4 * QUARTER)
    lease = pool.lend(pool.allocate(QUARTER), pool.shelf())
    assert pool.usage()["held"] == QUARTER
    del lease
    assert pool.usage()["held"] == 0


def test_whoever_was_interrupted_as_it_waited_holds_nobody_up(
    full: tuple[Pool, list[Block]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_claims, "INSISTS_S", 1000.0)
    monkeypatch.setattr(_claims, "_AGAIN_S", 1000.0)
    pool, blocks = full
    lost = Claim(QUARTER, for_results=True)
    pool.claims.enter(lost)
    pool.give_back(blocks.pop())

    assert pool.allocate(QUARTER, wait_s=20).nbytes == QUARTER
    assert lost not in pool.claims.waiting


def test_a_closed_pool_hands_out_nothing() -> None:
    pool = Pool(64 * PAGE_BYTES)
    pool.close()

    with pytest.raises(ModelClosedError, match="load it again"):
        pool.allocate(1)


def test_an_interrupt_of_somebody_who_has_found_room_loses_none(
    full: tuple[Pool, list[Block]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, blocks = full
    leave = pool.claims.leave

    def interrupted(claim: Claim) -> None:
        monkeypatch.setattr(pool.claims, "leave", leave)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.claims, "leave", interrupted)
    threading.Timer(0.05, lambda: pool.give_back(blocks.pop())).start()

    with pytest.raises(KeyboardInterrupt):
        pool.allocate(QUARTER, wait_s=20)
    assert not pool.claims.waiting
    assert pool.allocate(QUARTER, wait_s=0).nbytes == QUARTER


@pytest.mark.parametrize("lent", [False, True], ids=["in use", "lent"])
def test_what_an_interrupt_dropped_is_found_again(full: tuple[Pool, list[Block]], *, lent: bool) -> None:
    pool, blocks = full
    if lent:
        lease = pool.lend(blocks[0])
        del lease.block  # As if the destructor did not come to its end.
        del lease
    del blocks[0]
    assert pool.used_bytes == 4 * QUARTER

    assert pool.allocate(QUARTER, wait_s=20).nbytes == QUARTER
    with pytest.raises(SharedMemoryError):
        pool.allocate(QUARTER, wait_s=0)
    assert (pool.usage()["used"], pool.usage()["held"]) == (3 * QUARTER, 0)
