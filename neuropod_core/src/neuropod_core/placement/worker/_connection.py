"""A worker process that is ready for calls: its board, its lines, and what happens to them when it dies."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from neuropod_core.errors import NeuropodError, WorkerProtocolError
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._board import Doorbell, Shape, Slot
from neuropod_core.placement.worker._gate import Gate
from neuropod_core.placement.worker._line import Line
from neuropod_core.placement.worker._memory import Pool, Segment, create_segment
from neuropod_core.placement.worker._spin import may_spin, own_threads, running_threads


class Connection:
    """The lines to one worker.

    Attributes
    ----------
    gate
        Lends lines to callers.
    abandoned
        Lines whose callers have gone while the worker was busy; `reclaim` brings them back.
    failure
        What ended the worker; None while it lives.
    """

    def __init__(self, link: socket.socket, pool: Pool, slots: int, tensors: int, wake: Callable[[], None]) -> None:
        self._link, self._pool, self._wake = link, pool, wake
        self._sending, self._known = threading.Lock(), set[int]()
        self.failure: NeuropodError | None = None
        self.abandoned: deque[Line] = deque()
        shape = Shape(tensors)
        self._board = create_segment(0, slots * shape.slot_bytes)
        rings = [Doorbell() for _ in range(slots)]
        self.lines = [
            Line(Slot(self._board, shape, number), pool, ring, self._tell, spins=may_spin())
            for number, ring in enumerate(rings)
        ]
        self._rings, self._others = rings, slots - 1
        self.gate: Gate[Line] = Gate(self.lines[::-1])
        bells = [bell.descriptor for line, ring in zip(self.lines, rings, strict=True) for bell in (ring, line.bell)]
        message = {"serve": {"slots": slots, "tensors": tensors, "nbytes": self._board.nbytes}}
        _frames.send(link, message, [self._board.descriptor, *bells])

    @property
    def load(self) -> int:
        """How busy it is: calls that run and calls that wait, the idle ones counted against it."""
        return self.gate.waiting - len(self.gate.free)

    def may_spin(self) -> bool:
        """Whether the call that was just let in is the only one, from the only thread."""
        return len(self.gate.free) == self._others and running_threads() <= len(own_threads)

    def release(self, line: Line) -> None:
        """Take back a line whose call is over."""
        if line.used:
            line.clear()
        self.gate.give(line)

    def settle(self, line: Line) -> None:
        """Take back a line whose call did not come to its end; the worker may still be busy with it."""
        if self.failure is not None:
            line.clear()
        elif self._rests(line):
            self.release(line)
        else:
            line.listen()
            self.abandoned.append(line)
            self._wake()

    def reclaim(self) -> None:
        """Bring back the abandoned lines with which the worker is done."""
        for _ in range(len(self.abandoned)):
            line = self.abandoned.popleft()
            line.bell.silence()
            if self._rests(line):
                self.release(line)
            else:
                self.abandoned.append(line)

    def fail(self, error: NeuropodError) -> None:
        """Say to every caller that the worker is gone."""
        self.failure = error
        for line in self.lines:
            line.failure = error
            line.bell.ring()
        self.gate.close()
        while self.abandoned:
            self.abandoned.popleft().clear()

    def accuse(self, error: WorkerProtocolError) -> None:
        """Believe nothing more of a worker that said what no worker says."""
        self.failure = self.failure or error
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._wake()

    def close(self) -> None:
        """Let go of what belongs to it; callers may still be about to leave their lines."""
        for line in self.lines:
            line.close()
        self.lines, self._rings = [], []
        self.gate.forget()
        self._board.close()

    def _rests(self, line: Line) -> bool:
        try:
            return line.rest()
        except WorkerProtocolError as error:
            self.accuse(error)
            return False

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
