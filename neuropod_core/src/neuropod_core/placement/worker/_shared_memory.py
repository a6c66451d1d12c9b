"""The fast transport: calls lie in shared memory, and a doorbell wakes who sleeps. Linux only."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from neuropod_core.errors import SharedMemoryError
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import Shape, Slot
from neuropod_core.placement.worker._connection import Connection, Transport
from neuropod_core.placement.worker._line import SharedMemoryLine
from neuropod_core.placement.worker._memory import Pool, Segment, create_segment
from neuropod_core.placement.worker._spin import may_spin, own_threads, running_threads


class SharedMemory(Transport):
    """Hands out memory to calls, up to `limit_bytes` for all workers of a model together."""

    name = "shared_memory"

    def __init__(self, limit_bytes: int) -> None:
        self.pool = Pool(limit_bytes)

    def connect(self, link: socket.socket, slots: int, tensors: int, wake: Callable[[], None]) -> Connection:
        """Make a board for the worker."""
        return SharedMemoryConnection(link, self.pool, slots, tensors, wake)

    def allocate(self, nbytes: int) -> Any:
        """Lend memory of the pool."""
        return self.pool.lend(self.pool.allocate(nbytes)).owner()

    def usage(self) -> dict[str, int]:
        """Ask the pool."""
        pool = self.pool
        return {
            "limit": pool.limit_bytes,
            "reserved": pool.total_bytes,
            "used": pool.used_bytes,
            "held": pool.lent_bytes,
        }

    def close(self) -> None:
        """Let go of every segment."""
        self.pool.close()


class SharedMemoryConnection(Connection):
    """A board with one slot for each line, and the segments that the worker knows."""

    def __init__(self, link: socket.socket, pool: Pool, slots: int, tensors: int, wake: Callable[[], None]) -> None:
        self._pool, self._sending, self._known = pool, threading.Lock(), set[int]()
        shape = Shape(tensors)
        self._board = create_segment(0, slots * shape.slot_bytes)
        rings = [Doorbell() for _ in range(slots)]
        lines = [
            SharedMemoryLine(Slot(self._board, shape, number), pool, ring, self._tell, spins=may_spin())
            for number, ring in enumerate(rings)
        ]
        super().__init__(link, lines, wake)
        self._others = slots - 1
        bells = [end for line, ring in zip(lines, rings, strict=True) for end in (ring.descriptor, line.bell.ringer)]
        serve = {"transport": SharedMemory.name, "slots": slots, "tensors": tensors, "nbytes": self._board.nbytes}
        _frames.send(link, {"serve": serve}, [self._board.descriptor, *bells])
        for line, ring in zip(lines, rings, strict=True):
            line.bell.give_away_ringer()
            ring.give_away_descriptor()

    def may_spin(self) -> bool:
        """Whether the call that was just let in is the only one, from the only thread."""
        return len(self.gate.free) == self._others and running_threads() <= len(own_threads)

    def close(self) -> None:
        """Let go of the board as well."""
        super().close()
        self._board.close()

    def _tell(self, segment: Segment) -> None:
        if segment.number in self._known:
            return
        with self._sending, suppress(OSError):  # If the worker is gone, its death says more.
            for gone in self._known.difference(self._pool.segments):
                _frames.send(self._link, {"drop": gone})
                self._known.discard(gone)
            if segment.number not in self._known:
                message = {"segment": segment.number, "nbytes": segment.nbytes}
                _frames.send(self._link, message, [segment.descriptor])
                self._known.add(segment.number)


@cache
def is_available() -> bool:
    """Whether this system has what it takes, found out by asking for a page of it."""
    if sys.platform != "linux" or not hasattr(os, "posix_fallocate"):
        return False
    try:
        create_segment(0, 1).close()
    except (SharedMemoryError, OSError):
        return False
    return True
