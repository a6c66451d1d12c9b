"""Lines for tasks: waited for without holding up the loop."""

from __future__ import annotations

import asyncio
import time

from neuropod_core.placement.worker._connection import Connection, Line


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
