"""Calls of tasks: everything that waits does so without holding up the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import SharedMemoryError
from neuropod_core.placement.worker import _board as board
from neuropod_core.placement.worker._connection import Connection
from neuropod_core.placement.worker._line import Line, OverdueError

_OFF_THE_LOOP_BYTES = 256 << 10
"""Inputs of a task that take more are copied in a thread, so that the loop goes on."""

_NO_WAIT = 0.0
"""A deadline of long ago: where there is no room, an error says so at once. The loop must not wait for memory."""

T = TypeVar("T")


class LeftToThreadError(asyncio.CancelledError):
    """A task was cancelled while a thread puts its inputs: the thread gives the line back."""


class _OffTheLoop:
    """Steps of one call in a thread, which nobody can interrupt: whoever comes last, thread or task, has the line."""

    def __init__(self, connection: Connection, line: Line) -> None:
        self._connection, self._line = connection, line
        self._lock, self._through, self._left = threading.Lock(), False, False

    async def run(self, step: Callable[[], T]) -> T:
        """Take a step; the loop goes on meanwhile."""
        self._through = False
        taken = asyncio.ensure_future(asyncio.to_thread(self._take, step))
        try:
            return await asyncio.shield(taken)
        except asyncio.CancelledError as error:
            with self._lock:
                self._left = not self._through
            if self._left:
                taken.add_done_callback(_heard)
                raise LeftToThreadError from error
            raise

    def _take(self, step: Callable[[], T]) -> T:
        try:
            return step()
        finally:
            with self._lock:
                self._through = True
            if self._left:
                self._connection.settle(self._line)


def _heard(taken: asyncio.Future[T]) -> None:
    """Look at how a step ended that nobody waits for: else the loop complains."""
    if not taken.cancelled():
        taken.exception()


async def carried(
    connection: Connection, line: Line, inputs: Tensors, outputs: Names, deadline: float | None
) -> Tensors:
    """Put, ask, wait and take; raise `LeftToThreadError` where the line is no longer the task's."""
    thread = _OffTheLoop(connection, line)
    await _put(thread, line, inputs, outputs, deadline)
    results = None
    while results is None:
        line.ask(spins=False)
        await _answered(line, deadline)
        try:
            results = line.take(_NO_WAIT)
        except SharedMemoryError:
            results = await thread.run(partial(line.take, deadline))
    return results


async def _put(thread: _OffTheLoop, line: Line, inputs: Tensors, outputs: Names, deadline: float | None) -> None:
    """Put on the loop what is small and finds room at once."""
    if sum(getattr(array, "nbytes", 0) for array in inputs.values()) <= _OFF_THE_LOOP_BYTES:
        try:
            line.put(inputs, outputs, _NO_WAIT)
        except SharedMemoryError:
            line.clear()
        else:
            return
    await thread.run(partial(line.put, inputs, outputs, deadline))


async def _answered(line: Line, deadline: float | None) -> None:
    """Wait for the answer on the loop; the first nap is short, as in `Line.wait`."""
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(line.bell.descriptor, rung.set)
    line.listen()
    nap_s: float | None = board.FIRST_NAP_MS / 1000
    try:
        while not line.answered:
            if line.failure is not None:
                raise line.failure
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise OverdueError(0, "its answer was waited for")
            try:
                await asyncio.wait_for(rung.wait(), min((s for s in (nap_s, left_s) if s is not None), default=None))
            except asyncio.TimeoutError:
                nap_s = None
            rung.clear()
            line.bell.silence()
    finally:
        loop.remove_reader(line.bell.descriptor)
        line.unlisten()


async def delivered(connection: Connection, deadline: float | None) -> Line | None:
    """Wait for a line on the loop; None if the time is up or the connection ends."""
    if connection.gate.free and (line := connection.gate.take(0)) is not None:
        return line
    order = _Order(connection)
    connection.gate.ask(order.deliver)
    try:
        return await asyncio.wait_for(order.future, None if deadline is None else max(deadline - time.monotonic(), 0))
    except asyncio.TimeoutError:
        order.leave()
        return None
    except BaseException:
        order.leave()
        raise


class _Order:
    """A line on its way to a task; one that comes too late goes back."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self.future: asyncio.Future[Line | None] = self._loop.create_future()

    def leave(self) -> None:
        """Wait no longer; what has come goes back."""
        if self.future.done() and not self.future.cancelled():
            self._return(self.future.result())
        else:
            self.future.cancel()
            self._connection.gate.withdraw(self.deliver)

    def deliver(self, line: Line | None) -> None:
        """Bring the line, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._arrive, line)
        except RuntimeError:  # The loop was closed meanwhile.
            self._return(line)

    def _arrive(self, line: Line | None) -> None:
        if self.future.done():
            self._return(line)
        else:
            self.future.set_result(line)

    def _return(self, line: Line | None) -> None:
        if line is not None:
            self._connection.gate.give(line)
