"""When it pays to look again instead of going to sleep: waking up costs fifty times as much as a short call.

Spinning holds the interpreter, so a process spins only when no other Python thread could use it, when there is a
second CPU on which the other side can run, and where memory shows stores in the order in which they were made.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from contextlib import suppress

from neuropod_core.placement.worker._board import SPIN_IS_SAFE

LOOKS = range(3500)
"""How often a word is looked at before its reader goes to sleep: 60 to 100 us."""

_MISSES = 8
_TRIES = 2
"""How often to look in vain before the first rest, and between rests."""

_SHORTEST_PAUSE = 16
_LONGEST_PAUSE = 1024
_CPU_FIELD = 36
"""Of ``/proc/.../stat``, counted behind the name: where the thread runs."""

own_threads: set[int] = set()
"""Threads of this process that wait for workers, and never for the interpreter."""

running_threads = _thread._count  # noqa: SLF001 - undocumented, and there since 3.0; `threading` takes a lock for it
"""Counts the Python threads beside the main one; a caller is alone if all of them are `own_threads`."""


def may_spin() -> bool:
    """Whether this process could spin at all; asked once for each worker."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return SPIN_IS_SAFE and cpus > 1


def registered(run: Callable[[], None]) -> Callable[[], None]:
    """Count the thread that runs it among those that never want the interpreter for themselves."""

    def counted() -> None:
        me = _thread.get_ident()
        own_threads.add(me)
        try:
            run()
        finally:
            with suppress(KeyError):
                own_threads.remove(me)

    return counted


def leave_this_cpu() -> None:
    """Have this thread go on elsewhere, and be free to return.

    The kernel leaves a process that wakes up where it ran before, even if the one that woke it goes on there.
    """
    with suppress(OSError, ValueError, IndexError):  # A sandbox may forbid it.
        with open("/proc/thread-self/stat", "rb") as file:  # noqa: PTH123 - read between two calls
            here = int(file.read().rpartition(b")")[2].split()[_CPU_FIELD])
        allowed = os.sched_getaffinity(0)
        if others := allowed - {here}:
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(0, allowed)


class Spin:
    """Whether one side looks before it sleeps: it gives up where that was in vain, and tries again later.

    Attributes
    ----------
    steady
        Whether looking paid the last time, so that there is no need to ask `looks`.
    """

    __slots__ = ("_allowed", "_misses", "_pause", "_rest", "steady")

    def __init__(self, *, allowed: bool) -> None:
        self._allowed, self._misses, self._rest, self._pause = allowed, 0, 0, _SHORTEST_PAUSE
        self.steady = False

    def looks(self) -> bool:
        """Whether to look this time."""
        if not self._allowed:
            return False
        if self._rest:
            self._rest -= 1
            return False
        return True

    def hit(self) -> None:
        """Say that looking was enough."""
        self._misses, self._pause, self.steady = 0, _SHORTEST_PAUSE, True

    def miss(self) -> None:
        """Say that it was not."""
        self.steady = False
        self._misses += 1
        if self._misses >= _MISSES:
            self._misses = _MISSES - _TRIES  # The first one wakes the other side, which looks from then on.
            self._rest, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
