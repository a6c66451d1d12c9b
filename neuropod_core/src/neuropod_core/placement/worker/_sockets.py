"""The transport for every Unix: each slot has a socket pair, and calls and answers travel there as packets.

It shares no memory and needs nothing but sockets that pass descriptors. The parent keeps the worker's end of every pair
as well: what a worker has not read when it dies can still be seen there, and that tells a call that may have run from
one that has not.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import NeuropodError, WorkerProtocolError
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._bells import IN, OUT, new_poll
from neuropod_core.placement.worker._connection import Connection, Line, OverdueError, Transport, usual_slots
from neuropod_core.placement.worker._layouts import plain
from neuropod_core.placement.worker._packets import (
    CALL,
    ERROR,
    HEADER,
    RESULTS,
    Bounds,
    Incoming,
    Introduction,
    Layouts,
    Outgoing,
    outgoing,
)
from neuropod_core.placement.worker._travel import error_from
from neuropod_core.placement.worker._waiting import OFF_THE_LOOP_BYTES

_BUFFER_BYTES = 1 << 20


class Sockets(Transport):
    """Sends calls, each up to `limit_bytes` of inputs and of results."""

    name = "socket"

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def connect(
        self, link: socket.socket, slots: int | None, ready: Mapping[str, Any], tensors: int, wake: Callable[[], None]
    ) -> Connection:
        """Make a socket pair for each slot."""
        bounds, keeps_order = Bounds(self._limit_bytes, tensors), bool(ready.get("keeps_order"))
        return SocketConnection(link, bounds, slots or usual_slots(ready), tensors, wake, keeps_order=keeps_order)

    def allocate(self, nbytes: int) -> None:
        """Have any memory taken: workers see none of it."""

    def usage(self) -> dict[str, int]:
        """Tell the limit; nothing is shared."""
        return {"limit": self._limit_bytes, "reserved": 0, "used": 0, "held": 0}

    def close(self) -> None:
        """Have nothing to let go of."""


class SocketConnection(Connection):
    """The socket pairs of one worker."""

    def __init__(
        self,
        link: socket.socket,
        bounds: Bounds,
        slots: int,
        tensors: int,
        wake: Callable[[], None],
        *,
        keeps_order: bool,
    ) -> None:
        self._sending = threading.Lock()
        lines = [SocketLine(number, bounds, self._replace, keeps_order=keeps_order) for number in range(slots)]
        super().__init__(link, lines, wake)
        serve = {"transport": Sockets.name, "slots": slots, "tensors": tensors, "limit_bytes": bounds.limit_bytes}
        _frames.send(link, {"serve": serve | ({"keeps_order": True} if keeps_order else {})})
        for line in lines:
            _frames.send(link, {"slot": line.number}, [line.theirs.fileno()])

    def caller_is_alone(self) -> bool:
        """Never: there is nothing to look at."""
        return False

    def _replace(self, number: int, theirs: socket.socket) -> None:
        """Give the worker another socket for a slot: on the old one, nobody knows any more what comes next."""
        try:
            with self._sending:
                _frames.send_at_once(self._link, {"slot": number}, [theirs.fileno()])
        except (BrokenPipeError, ConnectionResetError):  # Its death says more.
            self._wake()
        except OSError as error:  # It has not read what it was told for so long that nothing more fits.
            self.accuse(WorkerProtocolError(f"the worker takes no new socket for a call: {error}"))


class SocketLine(Line):
    """One slot.

    Parameters
    ----------
    number
        Of the slot.
    bounds
        How large a call may be.
    replace
        Makes a new socket known to the worker.
    keeps_order
        Whether the worker knows of tensors in another order than the usual one.
    """

    def __init__(
        self, number: int, bounds: Bounds, replace: Callable[[int, socket.socket], None], *, keeps_order: bool
    ) -> None:
        super().__init__()
        self.number, self._replace = number, replace
        self._introduction, self._layouts = Introduction(bounds, keeps_order=keeps_order), Layouts(bounds)
        self._outgoing: Outgoing | None = None
        self._incoming: Incoming | None = None
        self._torn = False  # Whether something came in between while a packet was in the making.
        self._stolen = False
        self._raised = 0
        self._connect()

    # -- the call

    def call_through(
        self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None, *, spins: bool
    ) -> Tensors:
        """Send, wait and receive."""
        del spins
        self._begin(self._packed(inputs, outputs))
        while (events := self._advance()) != 0:
            self._sleep(events, deadline)
        return self._results()

    async def call_async(self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None) -> Tensors:
        """Send, await and receive."""
        if sum(getattr(array, "nbytes", 0) for array in inputs.values()) > OFF_THE_LOOP_BYTES:
            packed = await asyncio.to_thread(self._packed, inputs, outputs)
        else:
            packed = self._packed(inputs, outputs)
        self._begin(packed)
        while (events := self._advance()) != 0:
            await self._until(events, deadline)
        return self._results()

    @property
    def untouched(self) -> bool:
        """Whether the worker has not read the whole call, and cannot do so once it has failed."""
        sent = self._outgoing
        if sent is None or not sent.done or self._stolen:
            return True
        return self._is_unread(sent.header)

    # -- what becomes of it

    @property
    def descriptor(self) -> int:
        """That of the socket: it is readable when an answer comes."""
        return self._ours.fileno()

    def listen(self) -> None:
        """Have nothing to do: a socket is readable in any case."""

    def give_up(self, inputs: object) -> None:
        """Have nothing to do: what is sent was packed, and is kept until then."""

    @property
    def raised(self) -> int:
        """How many calls the worker has answered by an error."""
        return self._raised

    def silence(self) -> None:
        """Have nothing to do: a socket is readable until it was read."""

    def rest(self) -> bool:
        """Read what is there of an answer that nobody waits for; replace the socket if a packet was left in pieces."""
        sent, expected = self._outgoing, self._incoming
        if sent is None or expected is None:
            return True
        if self._torn or (sent.begun and not sent.done):
            with suppress(OSError):  # Whoever keeps the traceback of an interrupt keeps the socket open.
                self._ours.shutdown(socket.SHUT_RDWR)
            self._connect()
            self._replace(self.number, self.theirs)
        elif sent.done and not self._is_drained(expected):
            return False
        self._forget()
        return True

    def clear(self) -> None:
        """Let go of inputs and results."""
        self._forget()

    def fail(self, error: NeuropodError) -> None:
        """Wake whoever waits here."""
        self.failure = error
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Have nothing to keep: sockets are closed when nobody can use them any more."""

    # -- sending and receiving

    def _connect(self) -> None:
        self._ours, self.theirs = _pair()
        self._polls = {IN: new_poll(), OUT: new_poll()}
        for events, poll in self._polls.items():
            poll.register(self._ours.fileno(), events)
        if self.failure is not None:  # It came while the sockets were made.
            self.fail(self.failure)

    def _packed(self, inputs: Mapping[str, Any], outputs: Names) -> Outgoing:
        return outgoing(CALL, self.call + 1, plain(inputs), self._introduction, outputs)

    def _begin(self, packed: Outgoing) -> None:
        self._torn = self._stolen = False
        self._outgoing, self._incoming, self.call = packed, Incoming(self._layouts), self.call + 1

    def _forget(self) -> None:
        self._outgoing = self._incoming = None

    def _advance(self) -> int:
        """Send and receive what can be without waiting; tell which event to wait for, 0 if everything is there."""
        sent, expected = self._outgoing, self._incoming
        assert sent is not None  # noqa: S101 - the call has begun
        assert expected is not None  # noqa: S101 - as above
        torn, self._torn = self._torn, True
        events = OUT if not sent.done and not self._on_socket(sent.send) else 0
        events = events or (0 if self._receive(expected) else IN)
        self._torn = torn
        return events

    def _on_socket(self, step: Callable[[socket.socket], bool]) -> bool:
        with suppress(OSError, EOFError):
            return step(self._ours)
        # This side ends the pair when the worker is gone; nobody else should.
        raise self.failure or WorkerProtocolError("the worker hung up in the middle of a call")

    def _receive(self, expected: Incoming) -> bool:
        complete = self._on_socket(expected.receive)
        if complete and (expected.call != self.call or expected.kind not in (RESULTS, ERROR)):
            raise WorkerProtocolError(f"call {self.call} was answered by a packet {expected.kind} of {expected.call}")
        return complete

    def _is_drained(self, expected: Incoming) -> bool:
        try:
            return self._receive(expected)
        except NeuropodError as error:
            if error is self.failure:  # Nobody needs the line any more.
                return False
            raise

    def _results(self) -> Tensors:
        expected = self._incoming
        assert expected is not None  # noqa: S101 - it was received
        self._forget()
        if expected.kind == ERROR:
            self._raised += 1
            raise error_from(expected.message)
        return expected.tensors

    # -- waiting

    def _sleep(self, events: int, deadline: float | None) -> None:
        if deadline is None:
            self._polls[events].poll(None)
            return
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0:
            raise OverdueError(0, "its answer was waited for")
        self._polls[events].poll(left_ms)

    async def _until(self, events: int, deadline: float | None) -> None:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise OverdueError(0, "its answer was waited for")
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        add, remove = (loop.add_reader, loop.remove_reader) if events == IN else (loop.add_writer, loop.remove_writer)
        descriptor = self._ours.fileno()
        add(descriptor, ready.set)
        try:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ready.wait(), left_s)
        finally:
            remove(descriptor)

    # -- the end

    def _is_unread(self, header: bytes) -> bool:
        """Look for the call in what the worker has not read; once the worker has failed, take it away from there."""
        failed = self.failure is not None
        flags = socket.MSG_DONTWAIT | (0 if failed else socket.MSG_PEEK)
        try:
            unread = self.theirs.recv(HEADER.size, flags) == header
        except OSError:  # Nothing is there.
            return False
        self._stolen = unread and failed
        return unread


class _Socket(socket.socket):
    """One end of a pair; closed when nobody can use it any more, so that its number is nobody else's before that."""

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends of a slot; the parent's never blocks."""
    ours, theirs = (_Socket(fileno=end.detach()) for end in socket.socketpair())
    for end in (ours, theirs):
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with suppress(OSError):  # As large as the system allows.
                end.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER_BYTES)
    ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return ours, theirs
