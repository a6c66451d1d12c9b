"""What the executor and the supervisor know of the way to a worker; how calls travel is the business of a `Transport`.

There is one transport for a model, one `Connection` for each process that serves it, and one `Line` for each call that
the process takes at a time.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import DeadlineError, NeuropodError, WorkerProtocolError
from neuropod_core.placement.worker._gate import Gate


class OverdueError(DeadlineError):
    """The caller's own deadline has passed: any other `DeadlineError` is what the model raised."""


class OverdueForRoomError(OverdueError):
    """It passed while there was no room in shared memory: the worker had nothing to do with it."""


class RevokedError(Exception):
    """The task was cancelled: a thread need not go on with its call."""


class LeftToThreadError(asyncio.CancelledError):
    """A task was cancelled while a thread works on its line: the thread gives the line back."""


class Line(ABC):
    """Carries one call at a time to the worker and back; lent to one caller at a time.

    Attributes
    ----------
    failure
        What befell the worker; None while it lives.
    call
        Number of the last call, counted from 1.
    times
        Calls that gave results, by the bits of their nanoseconds.
    used
        Whether a call holds anything that `clear` lets go.
    loan
        What a call of `infer` knows it by; None once it was given back.
    leave
        Gives the line back where its caller cannot: `Connection.settle`.
    """

    leave: Callable[[Line], None]

    def __init__(self) -> None:
        self.failure: NeuropodError | None = None
        self.call = 0
        self.times = [0] * 64
        self.used = False
        self.loan: object = None

    @abstractmethod
    def call_through(
        self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None, *, spins: bool
    ) -> Tensors:
        """Have the worker run one call, and wait for its results; `spins` where looking for them is welcome.

        Raises
        ------
        OverdueError
            If there are none in time.
        NeuropodError
            What the worker raised; `failure` itself, if it is gone; a `WorkerProtocolError` if what it says cannot be.
        """

    @abstractmethod
    async def call_async(self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None) -> Tensors:
        """Do as `call_through` does while the event loop goes on."""

    @property
    @abstractmethod
    def untouched(self) -> bool:
        """Whether the worker has not taken the call: if it is gone, another one may run it."""

    @property
    def never_began(self) -> bool:
        """Whether the worker has not taken the call that breaks off now, or was not even asked."""
        return self.untouched

    @property
    @abstractmethod
    def raised(self) -> int:
        """How many calls the worker has answered by an error."""

    @property
    @abstractmethod
    def descriptor(self) -> int:
        """Readable when there may be something to look at, once `listen` was called."""

    @abstractmethod
    def listen(self) -> None:
        """Have `descriptor` become readable when the answer comes, with nobody waiting here."""

    @abstractmethod
    def silence(self) -> None:
        """Forget that it became readable."""

    @abstractmethod
    def give_up(self, inputs: object) -> None:
        """Keep the inputs of a call that broke off, where the worker may read them still; it need not run any more."""

    @abstractmethod
    def rest(self) -> bool:
        """After a call that did not come to its end: whether the worker is done with it, so that the line is free.

        Raises
        ------
        WorkerProtocolError
            If what the worker says cannot be.
        """

    @abstractmethod
    def clear(self) -> None:
        """Let go of everything that the call used; the worker is done with it."""

    @abstractmethod
    def fail(self, error: NeuropodError) -> None:
        """Say to whoever waits here that the worker is gone."""

    @abstractmethod
    def close(self) -> None:
        """Keep nothing for a next call; its caller may still be about to leave it."""


class Connection(ABC):
    """The lines to one worker: who gets one, and what happens to them when the worker dies.

    Attributes
    ----------
    lines
        All of them.
    gate
        Lends lines to callers.
    abandoned
        Lines whose callers have gone while the worker was busy; `reclaim` brings them back.
    failure
        What ended the worker; None while it lives.
    """

    def __init__(self, link: socket.socket, lines: Sequence[Line], wake: Callable[[], None]) -> None:
        self._link, self._wake = link, wake
        self._leaving, self._over = threading.Lock(), False
        self.failure: NeuropodError | None = None
        self.abandoned: deque[Line] = deque()
        self.lines = list(lines)
        for line in self.lines:
            line.leave = self.settle
        self.gate: Gate[Line] = Gate(self.lines[::-1])

    @property
    def load(self) -> int:
        """How busy it is: calls that run and calls that wait, the idle ones counted against it."""
        return self.gate.waiting - len(self.gate.free)

    def in_store(self) -> list[Line]:
        """Give the lines whose calls lie before the worker and wait while it runs another one."""
        return []

    def is_innocent(self, line: Line) -> bool:
        """Whether the worker is not to blame that the call of a line is late: it runs others first."""
        del line
        return False

    @property
    def answered(self) -> int:
        """How many calls the worker has answered, by results or by an error."""
        return sum(sum(line.times) + line.raised for line in self.lines)

    @abstractmethod
    def caller_is_alone(self) -> bool:
        """Whether the call that was just let in is the only one, from the only thread."""

    def release(self, line: Line) -> None:
        """Take back a line whose call is over."""
        if line.used:
            line.clear()
        gate, line.loan = self.gate, None
        gate.free.append(line)  # Here, not in a call of the gate: nothing comes between this and the line before it.
        if gate.queue or gate.closed:
            gate.attend()

    def settle(self, line: Line) -> None:
        """Take back a line whose call did not come to its end; the worker may still be busy with it."""
        if not self._over and self._rests(line):
            self.release(line)
            return
        with self._leaving:
            if not self._over:
                line.listen()
                self.abandoned.append(line)
                self._wake()
                return
        line.clear()

    def reclaim(self) -> None:
        """Bring back the abandoned lines with which the worker is done."""
        for _ in range(len(self.abandoned)):
            line = self.abandoned.popleft()
            line.silence()
            if self._rests(line):
                self.release(line)
            else:
                self.abandoned.append(line)

    def fail(self, error: NeuropodError) -> None:
        """Say to every caller that the worker is gone; what it was writing to may be anybody's from now on."""
        self.failure = error
        with self._leaving:
            self._over = True
        for line in self.lines:
            line.fail(error)
        self.gate.close()
        while self.abandoned:
            self.abandoned.popleft().clear()

    def accuse(self, error: NeuropodError) -> None:
        """Believe nothing more of a worker that said what no worker says."""
        self.failure = self.failure or error
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._wake()

    def close(self) -> None:
        """Let go of what belongs to it; callers may still be about to leave their lines."""
        for line in self.lines:
            line.close()
        self.lines = []
        self.gate.forget()

    def _rests(self, line: Line) -> bool:
        try:
            return line.rest()
        except WorkerProtocolError as error:
            self.accuse(error)
            return False


def usual_slots(ready: Mapping[str, Any]) -> int:
    """Give the number of slots where each has a thread of the worker: one that runs, and one in store."""
    return 2 if ready.get("serial") else 4


class Transport(ABC):
    """How the calls of one model travel between this process and its workers."""

    name: ClassVar[str]

    @abstractmethod
    def connect(
        self, link: socket.socket, slots: int | None, ready: Mapping[str, Any], tensors: int, wake: Callable[[], None]
    ) -> Connection:
        """Connect to a worker that has loaded the model.

        Parameters
        ----------
        link
            The socket to the worker.
        slots
            How many calls it takes at a time; None for what suits the model.
        ready
            What the worker says of it.
        tensors
            How many tensors the problem has.
        wake
            Has the supervisor look around.
        """

    @abstractmethod
    def allocate(self, nbytes: int) -> Any:
        """Give memory that the workers read where it lies; None where any memory does as well.

        Raises
        ------
        SharedMemoryError
            If there is none.
        """

    @abstractmethod
    def usage(self) -> dict[str, int]:
        """Tell how much shared memory there is: ``limit``, ``reserved``, ``used``, and ``held`` by callers."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; arrays that callers hold stay good."""
