"""The fast transport: calls lie in shared memory, and a doorbell wakes who sleeps. Linux only."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

from neuropod_core.errors import SharedMemoryError
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import Shape, Slot
from neuropod_core.placement.worker._connection import Connection, Line, Transport, usual_slots
from neuropod_core.placement.worker._line import SharedMemoryLine
from neuropod_core.placement.worker._open_files import is_at_limit
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._segments import Segment, create_segment
from neuropod_core.placement.worker._spin import may_spin, own_threads, running_threads

_SLOTS_IN_TURN = 8
_BETWEEN_CALLS_S = 0.05
"""A worker that takes no call for longer than this, though there is one, does not go on."""


class SharedMemory(Transport):
    """Hands out memory to calls, up to `limit_bytes` for all workers of a model together."""

    name = "shared_memory"

    def __init__(self, limit_bytes: int) -> None:
        self.pool = Pool(limit_bytes)

    def connect(
        self, link: socket.socket, slots: int | None, ready: Mapping[str, Any], tensors: int, wake: Callable[[], None]
    ) -> Connection:
        """Make a board for the worker."""
        takes_turns = bool(ready.get("takes_turns"))
        slots = slots or (_SLOTS_IN_TURN if takes_turns else usual_slots(ready))
        shares_bell, keeps_order = takes_turns and slots > 1, bool(ready.get("keeps_order"))
        return SharedMemoryConnection(
            link, self.pool, slots, tensors, wake, shares_bell=shares_bell, keeps_order=keeps_order
        )

    def allocate(self, nbytes: int) -> Any:
        """Lend memory of the pool."""
        return self.pool.lend(self.pool.allocate(nbytes)).owner()

    def usage(self) -> dict[str, int]:
        """Ask the pool."""
        return self.pool.usage()

    def close(self) -> None:
        """Let go of every segment."""
        self.pool.close()


class SharedMemoryConnection(Connection):
    """A board with one slot for each line, and the segments that the worker knows.

    Where the lines share a bell, one thread of the worker serves them in turn.
    """

    def __init__(
        self,
        link: socket.socket,
        pool: Pool,
        slots: int,
        tensors: int,
        wake: Callable[[], None],
        *,
        shares_bell: bool,
        keeps_order: bool,
    ) -> None:
        self._pool, self._sending, self._known = pool, threading.Lock(), set[int]()
        shape = Shape(tensors)
        self._board = create_segment(0, slots * shape.slot_bytes)
        rings = [Doorbell()] * slots if shares_bell else [Doorbell() for _ in range(slots)]
        lines: Sequence[SharedMemoryLine] = [
            SharedMemoryLine(
                Slot(self._board, shape, number), pool, ring, self._tell, spins=may_spin(), keeps_order=keeps_order
            )
            for number, ring in enumerate(rings)
        ]
        super().__init__(link, lines, wake)
        self._threads = ThreadPoolExecutor(slots, "neuropod-call")
        for line in lines:
            line.threads = self._threads
        self._taken, self._taken_at = -1, 0.0
        self._others, self._in_turn = slots - 1, lines if shares_bell else ()
        serve = {"transport": SharedMemory.name, "slots": slots, "tensors": tensors, "nbytes": self._board.nbytes}
        if keeps_order:
            serve["keeps_order"] = True
        if shares_bell:
            bells = [rings[0].descriptor, *(line.bell.ringer for line in lines)]
            serve["shares_bell"] = True
        else:
            pairs = zip(lines, rings, strict=True)
            bells = [end for line, ring in pairs for end in (ring.descriptor, line.bell.ringer)]
        _frames.send(link, {"serve": serve}, [self._board.descriptor, *bells])
        for line in lines:
            line.bell.give_away_ringer()
        for ring in set(rings):
            ring.give_away_descriptor()

    def caller_is_alone(self) -> bool:
        """Whether the call that was just let in is the only one, from the only thread."""
        return len(self.gate.free) == self._others and running_threads() <= len(own_threads)

    def in_store(self) -> list[Line]:
        """Give the lines whose calls wait for their turn."""
        if not any(line.runs for line in self._in_turn if line not in self.gate.free):
            return []
        return [line for line in self._in_turn if line.untouched]

    def is_innocent(self, line: Line) -> bool:
        """Whether the worker goes on with other calls, as it does if it took one since somebody last asked this."""
        if line not in self._in_turn or not line.untouched:
            return False
        if line in self.in_store():
            return True
        taken, now = sum(line.taken for line in self._in_turn), time.monotonic()
        if taken != self._taken:  # Between two calls, nothing runs for a moment.
            self._taken, self._taken_at = taken, now
        return now - self._taken_at < _BETWEEN_CALLS_S

    def close(self) -> None:
        """Let go of the board as well."""
        super().close()
        self._threads.shutdown(wait=False)
        self._in_turn = ()
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
    except (SharedMemoryError, OSError) as error:
        if is_at_limit(error):  # That says nothing of the system.
            raise
        return False
    return True
