"""Who gets the memory that comes back: whoever waits longest, room for results before room for inputs."""

from __future__ import annotations

import _thread
import time
from contextlib import suppress

_LONGEST_NAP_S = 0.1

_LOST_S = 2.0
"""Whoever has not looked for so long was interrupted as it left."""


class Claim:
    """Somebody who waits for memory.

    Parameters
    ----------
    for_results
        Whether it comes before those who want to lay down inputs: a call that has run needs no more than this to be
        over, and then there is more memory for the others.

    Attributes
    ----------
    stands_back
        Whether others go first: all that is in use is held by callers, so nothing comes back while others wait.
    """

    __slots__ = ("_seen", "_woken", "for_results", "stands_back")

    def __init__(self, *, for_results: bool) -> None:
        self.for_results, self.stands_back = for_results, False
        self._woken, self._seen = _thread.allocate_lock(), time.monotonic()
        self._woken.acquire()

    @property
    def is_lost(self) -> bool:
        """Whether nobody looks any longer."""
        return time.monotonic() - self._seen > _LOST_S

    def look(self) -> None:
        """Be remembered as somebody who still waits."""
        self._seen = time.monotonic()

    def nap(self, seconds: float) -> None:
        """Sleep until somebody wakes it, and not much longer than it takes to look around."""
        self._woken.acquire(timeout=min(seconds, _LONGEST_NAP_S))

    def wake(self) -> None:
        """Have it look again."""
        with suppress(RuntimeError):  # It is awake.
            self._woken.release()


class Claims:
    """Those who wait, in their order; used under the lock of the pool, but for `wake_all` and `waiting`.

    Attributes
    ----------
    waiting
        All of them; it has a truth value wherever somebody wants to know.
    """

    def __init__(self) -> None:
        self.waiting: list[Claim] = []

    def is_next(self, claim: Claim | None) -> bool:
        """Whether nobody waits who comes before; a newcomer comes last."""
        for other in self.waiting.copy():
            if other is claim:
                return True
            if other.is_lost:
                self.waiting.remove(other)
            elif not other.stands_back:
                return False
        return True

    def enter(self, claim: Claim) -> None:
        """Put somebody in the queue, if it is not there; those for results come first."""
        claim.look()
        if claim in self.waiting:
            return
        place = sum(each.for_results for each in self.waiting) if claim.for_results else len(self.waiting)
        self.waiting.insert(place, claim)

    def leave(self, claim: Claim) -> None:
        """Let somebody out; the next one looks whether there is enough for it as well."""
        with suppress(ValueError):
            self.waiting.remove(claim)
        self.wake_all()

    def wake_all(self) -> None:
        """Have everybody look again; takes no lock."""
        for claim in self.waiting.copy():
            claim.wake()
