"""Tasks that wait for a line, without holding up the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from neuropod_core.placement.worker._gate import Gate, Waiter, seconds_of_nap


async def has_turn(gate: Gate[Any], until: float | None, is_better: Callable[[], bool] | None = None) -> bool:
    """Wait as `Gate.wait` does, on the loop."""
    bell = _Bell()
    waiter, is_next = Waiter(bell.ring), False
    try:
        while not gate.closed:
            is_next, left_s = gate.has_turn(waiter), seconds_of_nap(until, looks_around=is_better is not None)
            if is_next or left_s <= 0 or (is_better is not None and is_better()):
                return is_next
            await bell.rung(left_s)
        return False
    finally:
        gate.leave(waiter, has_turn=is_next)


class _Bell:
    """Wakes one task from any thread."""

    def __init__(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def ring(self) -> bool:
        """Wake the task, or keep it awake; False if its loop was closed."""
        try:
            if threading.get_ident() == self._thread:
                self._arrive()
            else:
                self._loop.call_soon_threadsafe(self._arrive)
        except RuntimeError:
            return False
        return True

    async def rung(self, within_s: float) -> None:
        """Wait for a ring, and not longer than that."""
        timer = self._loop.call_later(within_s, self._arrive)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = self._loop.create_future()

    def _arrive(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
