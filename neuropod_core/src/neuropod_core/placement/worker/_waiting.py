"""Calls that tasks await: the loop goes on while the worker runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import ModelClosedError, SharedMemoryError
from neuropod_core.placement.worker._connection import (
    LeftToThreadError,
    OverdueError,
    OverdueForRoomError,
)
from neuropod_core.placement.worker._pool import AT_ONCE

if TYPE_CHECKING:
    from neuropod_core.placement.worker._line import SharedMemoryLine

OFF_THE_LOOP_BYTES = 256 << 10
"""Tensors of a task that take more are copied in a thread, so that the loop goes on."""

_SHORTEST_NAP_S = 0.001

T = TypeVar("T")


class _OffTheLoop:
    """Steps of one call in a thread, which nobody can interrupt: whoever comes last, thread or task, has the line."""

    def __init__(self, line: SharedMemoryLine) -> None:
        self._line, self._lock = line, threading.Lock()
        self._begun = self._through = self._left = self._revoked = False

    async def run(self, step: Callable[[], T]) -> T | None:
        """Take a step; the loop goes on meanwhile."""
        self._begun = self._through = False
        working = self._begun_in_thread(step)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError as error:
            working.add_done_callback(_unheard)
            with self._lock:
                self._revoked = not self._begun
                self._left = self._line.is_left = self._begun and not self._through
            if self._left:
                raise LeftToThreadError from error
            raise

    def _begun_in_thread(self, step: Callable[[], T]) -> asyncio.Future[T | None]:
        """Hand a step to a thread of the connection: those of the loop are for what its tasks do beside their calls."""
        loop, run = asyncio.get_running_loop(), copy_context().run
        try:
            return loop.run_in_executor(self._line.threads, run, self._take, step)
        except RuntimeError as error:  # The connection was closed.
            raise self._line.failure or ModelClosedError("the model is closed", remedy="load it again") from error

    def _take(self, step: Callable[[], T]) -> T | None:
        with self._lock:
            if self._revoked:
                return None
            self._begun = True
        try:
            return step()
        except BaseException:
            if not self._left:
                raise
            return None  # What is raised for nobody to hear would keep the inputs.
        finally:
            with self._lock:
                self._through = True
            self._line.is_left = False
            if self._left:
                self._line.leave(self._line)


def _unheard(working: asyncio.Future[Any]) -> None:
    """See the error that nobody waits for: what asyncio logs of one that nobody saw keeps the inputs."""
    if not working.cancelled():
        working.exception()


async def carried(line: SharedMemoryLine, inputs: Mapping[str, Any], outputs: Names, deadline: float | None) -> Tensors:
    """Put, ask, wait and take; raise `LeftToThreadError` where the line is no longer the task's."""
    thread = _OffTheLoop(line)
    await _put(thread, line, inputs, outputs, deadline)
    results = None
    while results is None:
        line.ask(looks=False)
        await _answered(line, deadline)
        results = await _taken(thread, line, deadline)
    return results


async def _put(
    thread: _OffTheLoop, line: SharedMemoryLine, inputs: Mapping[str, Any], outputs: Names, deadline: float | None
) -> None:
    """Put on the loop what is small and finds room at once."""
    if sum(getattr(array, "nbytes", 0) for array in inputs.values()) <= OFF_THE_LOOP_BYTES:
        try:
            line.put(inputs, outputs, AT_ONCE)
        except (SharedMemoryError, OverdueForRoomError):
            line.clear()
        else:
            return
    await thread.run(partial(line.put, inputs, outputs, deadline))


async def _taken(thread: _OffTheLoop, line: SharedMemoryLine, deadline: float | None) -> Tensors | None:
    """Take on the loop what is not copied, or small, and finds room at once."""
    if not line.copies_more_than(OFF_THE_LOOP_BYTES):
        with suppress(SharedMemoryError, OverdueForRoomError):
            return line.take(AT_ONCE)
    return await thread.run(partial(line.take, deadline))


async def _answered(line: SharedMemoryLine, deadline: float | None) -> None:
    """Wait for the answer on the loop; the worker knows that it has to ring."""
    loop = asyncio.get_running_loop()
    rung = loop.create_future()

    def ring() -> None:
        if not rung.done():
            rung.set_result(None)

    timer = None
    loop.add_reader(line.bell.descriptor, ring)
    try:
        while True:
            if line.failure is not None:
                raise line.failure
            if deadline is not None:  # Anew each time: the clock of a loop may run ahead of ours.
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise OverdueError(0, "its answer was waited for")
                timer = loop.call_later(max(left_s, _SHORTEST_NAP_S), ring)
            await rung
            if timer is not None:
                timer.cancel()
            line.bell.silence()
            if line.answered:
                return
            rung = loop.create_future()
    finally:
        if timer is not None:
            timer.cancel()
        loop.remove_reader(line.bell.descriptor)
        line.unlisten()
