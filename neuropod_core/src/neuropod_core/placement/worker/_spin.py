"""When it pays to look again instead of going to sleep: waking up costs fifty times as much as a short call.

Spinning holds the interpreter, so a process spins only when no other Python thread could use it, when there is a
second CPU on which the other side can run, and where memory shows stores in the order in which they were made.
"""

from __future__ import annotations

import _thread
import os

from neuropod_core.placement.worker._board import SPIN_IS_SAFE

LOOKS = 1800
"""How often a word is looked at before its reader goes to sleep: 60 to 100 us."""

_MISSES = 8
_LONGEST_PAUSE = 1024

own_threads: set[int] = set()
"""Threads of this process that wait for workers, and never for the interpreter."""


def may_spin() -> bool:
    """Whether this process could spin at all; asked once for each worker."""
    return SPIN_IS_SAFE and len(os.sched_getaffinity(0)) > 1


def alone() -> bool:
    """Whether the caller is the only Python thread of this process, apart from those that wait for workers."""
    return _thread._count() <= len(own_threads)  # type: ignore[attr-defined]  # documented nowhere, there since 3.0


class Spin:
    """How often one side looks before it sleeps: it gives up where that was in vain, and tries again later."""

    __slots__ = ("_allowed", "_misses", "_pause", "_rest")

    def __init__(self, *, allowed: bool) -> None:
        self._allowed, self._misses, self._rest, self._pause = allowed, 0, 0, 16

    def looks(self) -> int:
        """Give how often to look this time."""
        if not self._allowed:
            return 0
        if self._rest:
            self._rest -= 1
            return 0
        return LOOKS

    def hit(self) -> None:
        """Say that looking was enough."""
        self._misses, self._pause = 0, 16

    def miss(self) -> None:
        """Say that it was not."""
        self._misses += 1
        if self._misses >= _MISSES:
            self._rest, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
