"""Calls that tasks await: the loop goes on while the worker runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import SharedMemoryError
from neuropod_core.placement.worker._board import FIRST_NAP_MS
from neuropod_core.placement.worker._connection import OverdueError

if TYPE_CHECKING:
    from neuropod_core.placement.worker._line import SharedMemoryLine

OFF_THE_LOOP_BYTES = 256 << 10
"""Inputs of a task that take more are copied in a thread, so that the loop goes on."""

_NO_WAIT = 0.0
"""A deadline of long ago: where there is no room, an error says so at once. The loop must not wait for memory."""

T = TypeVar("T")


async def carried(line: SharedMemoryLine, inputs: Mapping[str, Any], outputs: Names, deadline: float | None) -> Tensors:
    """Put a call, ask, wait and take its results."""
    await _put(line, inputs, outputs, deadline)
    results = None
    while results is None:
        line.ask(spins=False)
        await _answered(line, deadline)
        try:
            results = line.take(_NO_WAIT)
        except SharedMemoryError:
            results = await _in_thread(line.take, deadline)
    return results


async def _put(line: SharedMemoryLine, inputs: Mapping[str, Any], outputs: Names, deadline: float | None) -> None:
    """Put on the loop what is small and finds room at once."""
    if sum(getattr(array, "nbytes", 0) for array in inputs.values()) <= OFF_THE_LOOP_BYTES:
        try:
            line.put(inputs, outputs, _NO_WAIT)
        except SharedMemoryError:
            line.clear()
        else:
            return
    await _in_thread(line.put, inputs, outputs, deadline)


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run in a thread, and stay until that is done, even if cancelled: it writes where the next call will."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # It is nobody's any more.
        raise


async def _answered(line: SharedMemoryLine, deadline: float | None) -> None:
    """Wait for the answer on the loop; the first nap is short, as in `SharedMemoryLine.wait`."""
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(line.bell.descriptor, rung.set)
    line.listen()
    nap_s: float | None = FIRST_NAP_MS / 1000
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
