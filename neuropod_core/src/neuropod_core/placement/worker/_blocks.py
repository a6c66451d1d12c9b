"""Blocks of the pool, who has them, and where they are kept for the next call."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from neuropod_core.placement.worker._segments import Segment

if TYPE_CHECKING:
    from neuropod_core.placement.worker._pool import Pool


class BlockArray(np.ndarray):
    """The bytes of one block, and the innermost owner of every array in it: `lease` gives the block back."""

    lease: Lease | None

    def __array_finalize__(self, source: object) -> None:
        # NumPy lets a slice of this very array forget it, and remember the segment: so the slice keeps the lease.
        self.lease = getattr(source, "lease", None)


class Block:
    """A range of a segment, handed out by the pool or ready for that.

    Attributes
    ----------
    lent
        Whether it counts as held by a caller.
    out
        Whether it is handed out.
    """

    __slots__ = ("__weakref__", "lent", "nbytes", "offset", "out", "segment")

    def __init__(self, segment: Segment, offset: int, nbytes: int) -> None:
        self.segment, self.offset, self.nbytes = segment, offset, nbytes
        self.lent = self.out = False


class Lease:
    """Whoever holds it uses the block; the last one to let go puts it on the shelf that it came from."""

    __slots__ = ("_shelf", "block")

    def __init__(self, shelf: Shelf, block: Block) -> None:
        self._shelf, self.block = shelf, block

    def owner(self) -> BlockArray:
        """Give the bytes of the block as an array that keeps this lease."""
        block = self.block
        owner: BlockArray = block.segment.bytes[block.offset : block.offset + block.nbytes].view(BlockArray)
        owner.lease = self
        return owner

    def __del__(self) -> None:
        # Runs wherever the collector runs, perhaps inside the pool: so it takes no lock.
        with contextlib.suppress(Exception):  # At the end of the interpreter, things go in any order.
            self._shelf.put(self.block)


class Shelf:
    """Where a line finds the block of its last call again; whoever runs short of memory clears it.

    The common case, a caller that drops a result before the next call, then never comes to the pool.
    """

    __slots__ = ("_blocks", "_pool", "_retired", "_waiting")

    def __init__(self, pool: Pool) -> None:
        self._pool, self._waiting, self._retired = pool, pool.claims.waiting, False
        self._blocks: list[Block] = []

    def take(self, nbytes: int) -> Block | None:
        """Take the block that came last, if it fits."""
        try:
            block = self._blocks.pop()
        except IndexError:
            return None
        if nbytes <= block.nbytes <= 4 * nbytes:
            return block
        self._pool.give_back(block)
        return None

    def put(self, block: Block) -> None:
        """Keep a block for the next call; more than one goes back."""
        if self._blocks or self._retired or (self._waiting and self._pool.wanting(block)):
            self._pool.give_back(block)
            return
        self._blocks.append(block)
        if self._retired or self._waiting:  # type: ignore[redundant-expr]  # other threads come in between
            self._look_again(block)

    def retire(self) -> None:
        """Keep nothing from now on: leases outlive the line."""
        self._retired = True
        self.clear()

    def clear(self) -> None:
        """Give everything back."""
        while self._blocks:
            with contextlib.suppress(IndexError):  # Somebody took it.
                self._pool.give_back(self._blocks.pop())

    @property
    def lent_bytes(self) -> int:
        """What callers had and dropped, among what is kept."""
        return sum(block.nbytes for block in self._blocks.copy() if block.lent)

    def _look_again(self, block: Block) -> None:
        """Give everything back after all, if somebody wants it."""
        if self._retired or self._pool.wanting(block):
            self.clear()


class NoShelf(Shelf):
    """No shelf: blocks go straight back."""

    __slots__ = ()

    def put(self, block: Block) -> None:
        """Give it back."""
        self._pool.give_back(block)
