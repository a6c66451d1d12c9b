"""The pool: blocks carved from segments, lent to callers, and back when the last array that lies in them is dropped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from weakref import ref

from neuropod_core.backend import Array
from neuropod_core.errors import ModelClosedError, SharedMemoryError
from neuropod_core.placement.worker._blocks import Block, BlockArray, Lease, NoShelf, Shelf
from neuropod_core.placement.worker._claims import Claim, Claims
from neuropod_core.placement.worker._connection import OverdueForRoomError
from neuropod_core.placement.worker._segments import PAGE_BYTES, Segment, create_segment, larger_limit, rounded

_AUDIT_S = 1.0
"""Whoever finds no room looks so often whether some was lost."""

AT_ONCE = 0.0
"""A deadline of long ago: where there is no room, an error says so at once."""

SEGMENT_BYTES = 16 << 20
"""The usual size of a segment; a larger tensor gets one of its own."""


def nothing() -> None:
    """Have nothing to say."""


class Pool:
    """Hands out blocks of shared memory, up to a limit of its own.

    Attributes
    ----------
    limit_bytes
        Segments together are never larger.
    claims
        Those who wait for memory.
    freed
        Blocks that came back and are not yet in their place; filled by destructors.
    lent_bytes
        What lies in arrays that callers hold.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.freed: SimpleQueue[Block] = SimpleQueue()
        self.shelves: list[Shelf] = []
        self.claims, self._closed = Claims(), False
        self.segments: dict[int, Segment] = {}
        self.lent_bytes = self.used_bytes = 0
        self._spare: dict[int, list[Block]] = {}
        self._gaps: dict[int, list[tuple[int, int]]] = {}  # segment -> (offset, bytes) that are free, in order
        self._blocks: list[ref[Block]] = []
        self._audited_at = 0.0
        self._own_shelf = NoShelf(self)
        self._lock, self._numbers = threading.Lock(), iter(range(1, 1 << 62))

    def usage(self) -> dict[str, int]:
        """Tell the limit, and how much of it is ``reserved``, ``used``, and ``held`` by callers."""
        with self._lock:
            self._collect()
            self._audit()
            return {
                "limit": self.limit_bytes,
                "reserved": self.total_bytes,
                "used": self.used_bytes,
                "held": self.lent_bytes - sum(shelf.lent_bytes for shelf in self.shelves),
            }

    @property
    def total_bytes(self) -> int:
        """What the segments take together."""
        return sum(segment.nbytes for segment in list(self.segments.values()))

    def allocate(
        self,
        nbytes: int,
        deadline: float | None = None,
        *,
        wait_s: float = 10.0,
        for_results: bool = False,
        check: Callable[[], None] = nothing,
    ) -> Block:
        """Hand out a block of at least `nbytes`, waiting for one to come back where the limit is reached.

        `check` is called now and then while it waits, and may end that by an error.

        Raises
        ------
        SharedMemoryError
            If it is larger than the pool, or none came back in time.
        OverdueForRoomError
            If none came back before `deadline`.
        """
        size = _size_class(nbytes)
        if size > self.limit_bytes:
            what = f"{nbytes} bytes do not fit shared memory of {self.limit_bytes}"
            raise SharedMemoryError(what, remedy=larger_limit(4 * size))
        with self._lock:
            block = self._found(size)
        if block is not None:
            return block
        until = time.monotonic() + wait_s if deadline is None else min(deadline, time.monotonic() + wait_s)
        if until > time.monotonic() and (
            block := self._awaited(size, until, Claim(size, for_results=for_results), check)
        ):
            return block
        raise self._no_room(nbytes, is_late=until == deadline)

    def allocate_known(
        self,
        nbytes: int,
        deadline: float | None,
        tell: Callable[[Segment], None],
        *,
        for_results: bool = False,
        check: Callable[[], None] = nothing,
    ) -> Block:
        """Hand out a block as `allocate` does, in a segment that the worker was told of."""
        block = self.allocate(nbytes, deadline, for_results=for_results, check=check)
        try:
            tell(block.segment)
        except BaseException:
            self.give_back(block)
            raise
        return block

    def lend(self, block: Block, shelf: Shelf | None = None) -> Lease:
        """Count a block as held by a caller; the lease gives it back."""
        if not block.lent:
            with self._lock:
                block.lent = True
                self.lent_bytes += block.nbytes
        return Lease(shelf or self._own_shelf, block)

    def give_back(self, block: Block) -> None:
        """Take back a block that no array lies in; takes no lock."""
        if not self._closed:  # Else its memory goes with it.
            self.freed.put(block)
            for claim in self.wanting(block):
                claim.wake()

    def wanting(self, block: Block) -> Sequence[Claim]:
        """Give those who wait for memory, if a block that is not in use may help them; takes no lock."""
        if not self.claims.waiting:
            return ()
        return self.claims.wanting(self.limit_bytes - self.used_bytes + block.nbytes * (self.freed.qsize() + 1))

    def shelf(self) -> Shelf:
        """Give a new shelf, which is cleared when memory is short."""
        shelf = Shelf(self)
        with self._lock:
            self.shelves.append(shelf)
        return shelf

    def retire(self, shelf: Shelf) -> None:
        """Take back what a shelf holds, now and later: leases may still bring blocks to it."""
        with self._lock:
            self.shelves.remove(shelf)
        shelf.retire()

    def is_crowded_by(self, block: Block) -> bool:
        """Whether callers would hold more than half of the limit with `block` among it."""
        if block.lent or self.lent_bytes + block.nbytes <= self.limit_bytes // 2:
            return False
        with self._lock:
            self._clear_shelves()
            self._collect()
            return self.lent_bytes + block.nbytes > self.limit_bytes // 2

    def locate(self, array: Array) -> tuple[int, int] | None:
        """Give the segment and the offset of an array that lies in the pool as one piece; None for any other."""
        owner = array.base
        if type(owner) is not BlockArray or owner.lease is None or not array.flags.c_contiguous:
            return None
        segment = owner.lease.block.segment
        if self.segments.get(segment.number) is not segment:
            return None
        return segment.number, int(array.__array_interface__["data"][0]) - segment.address

    def close(self) -> None:
        """Let go of every segment; arrays that callers hold stay good."""
        with self._lock:
            self._closed = True
            self._collect()
            for segment in self.segments.values():
                segment.close()
            self.segments.clear()
            self._spare.clear()
            self._gaps.clear()
        self.claims.wake_all()

    def _awaited(self, size: int, until: float, claim: Claim, check: Callable[[], None]) -> Block | None:
        """Wait in the queue for a block; None if the time is up."""
        block, left_s = None, 1.0
        try:
            while block is None and left_s > 0:
                check()
                with self._lock:
                    self.claims.enter(claim)
                    block = self._found(size, claim)
                left_s = until - time.monotonic()
                if block is None and left_s > 0:
                    claim.nap(left_s)
            self._leave(claim)
        except BaseException:
            if block is not None:
                self.give_back(block)
            self._leave(claim)
            raise
        return block

    def _leave(self, claim: Claim) -> None:
        with self._lock:
            self.claims.leave(claim)

    def _no_room(self, nbytes: int, *, is_late: bool) -> SharedMemoryError | OverdueForRoomError:
        what = f"no room for {nbytes} bytes in shared memory of {self.limit_bytes}"
        what += f": {self.used_bytes} are in use, {self.lent_bytes} of them by results and inputs that are held"
        instead = (
            "drop results, or copy them" if 2 * self.lent_bytes > self.used_bytes else "have fewer calls at a time"
        )
        remedy = f"{instead}, or pass a larger Worker(shared_memory_bytes=...)"
        return OverdueForRoomError(0, what, remedy) if is_late else SharedMemoryError(what, remedy=remedy)

    # -- under the lock

    def _found(self, size: int, claim: Claim | None = None) -> Block | None:
        if self._closed:
            raise ModelClosedError("the model is closed", remedy="load it again")
        self._collect()
        if self.claims.waiting and not self.claims.is_next(claim):
            return None
        spare = self._spare.get(size)
        block = spare.pop() if spare else self._carved(size)
        if block is None and (self._spare or self.used_bytes):
            self._clear_shelves()
            self._collect()
            self._flush()
            block = self._carved(size)
        block = block or self._from_new_segment(size)
        if block is None and time.monotonic() - self._audited_at > _AUDIT_S:
            self._audit()
            block = self._carved(size) or self._from_new_segment(size)
        if block is not None:
            block.out = True
            self.used_bytes += block.nbytes
        return block

    def _clear_shelves(self) -> None:
        for shelf in self.shelves:
            shelf.clear()

    def _collect(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                block = self.freed.get_nowait()
                block.out = False
                self.used_bytes -= block.nbytes
                if block.lent:
                    self.lent_bytes -= block.nbytes
                    block.lent = False
                if block.segment.number in self.segments:
                    self._spare.setdefault(block.nbytes, []).append(block)

    def _carved(self, size: int) -> Block | None:
        for number, gaps in self._gaps.items():
            for place, (offset, free) in enumerate(gaps):
                if free >= size:
                    gaps[place : place + 1] = [(offset + size, free - size)] if free > size else []
                    return self._made(self.segments[number], offset, size)
        return None

    def _made(self, segment: Segment, offset: int, nbytes: int) -> Block:
        block = Block(segment, offset, nbytes)
        self._blocks.append(ref(block))
        return block

    def _flush(self) -> None:
        """Turn spare blocks back into gaps, joining neighbours."""
        for blocks in self._spare.values():
            for block in blocks:
                self._gaps[block.segment.number].append((block.offset, block.nbytes))
        self._spare.clear()
        for number, gaps in self._gaps.items():
            self._gaps[number] = list(_joined(sorted(gaps)))
        self._blocks = [each for each in self._blocks if each() is not None]

    def _audit(self) -> None:
        """Count what is out, and have the rest free: an interrupt may have dropped a block on its way."""
        self._flush()
        self._audited_at = time.monotonic()
        out = [block for each in self._blocks if (block := each()) is not None and block.out]
        ends: dict[int, list[tuple[int, int]]] = {number: [] for number in self.segments}
        for block in sorted(out, key=lambda block: block.offset):
            ends.setdefault(block.segment.number, []).append((block.offset, block.offset + block.nbytes))
        for number, segment in self.segments.items():
            self._gaps[number] = list(_between(ends[number], segment.nbytes))
        self.used_bytes = sum(block.nbytes for block in out)
        self.lent_bytes = sum(block.nbytes for block in out if block.lent)

    def _from_new_segment(self, size: int) -> Block | None:
        room = self.limit_bytes - self.total_bytes
        if size > room:
            room += self._drop_empty_segments(size - room)
        if size > room:
            return None
        usual = min(SEGMENT_BYTES, max(self.limit_bytes // 4, size))
        segment = create_segment(next(self._numbers), min(max(size, usual), room) // PAGE_BYTES * PAGE_BYTES)
        self.segments[segment.number] = segment
        self._gaps[segment.number] = [(size, segment.nbytes - size)] if segment.nbytes > size else []
        return self._made(segment, 0, size)

    def _drop_empty_segments(self, wanted: int) -> int:
        dropped = 0
        for number, segment in list(self.segments.items()):
            if dropped < wanted and self._gaps[number] == [(0, segment.nbytes)]:
                del self.segments[number], self._gaps[number]
                segment.close()
                dropped += segment.nbytes
        return dropped


def _size_class(nbytes: int) -> int:
    """Round up so that blocks fit again: to pages, then to an eighth of the size."""
    size = rounded(nbytes, PAGE_BYTES)
    return rounded(size, max(PAGE_BYTES, 1 << max(size.bit_length() - 4, 0)))


def _joined(gaps: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start = end = -1
    for offset, free in gaps:
        if offset != end:
            if end > start >= 0:
                yield start, end - start
            start = offset
        end = offset + free
    if end > start >= 0:
        yield start, end - start


def _between(taken: list[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """Give what lies between ranges that are in order, as offsets and bytes."""
    start = 0
    for first, last in taken:
        if first > start:
            yield start, first - start
        start = last
    if end > start:
        yield start, end - start
