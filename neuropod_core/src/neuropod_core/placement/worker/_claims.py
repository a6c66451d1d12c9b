"""Who gets the memory that comes back: whoever waits longest, room for results before room for inputs."""

from __future__ import annotations

import _thread
import time
from contextlib import suppress

_LONGEST_NAP_S = 0.1

_LOST_S = 2.0
"""Whoever has not looked for so long was interrupted as it left."""

INSISTS_S = 0.2
_AGAIN_S = 2.0
"""So long, and so often, whoever waits keeps memory from those behind it: it is not passed over for ever by those who
need less, and what it waits for in vain, since callers or long calls hold it, costs the others a tenth of their time.
"""


class Claim:
    """Somebody who waits for memory.

    Parameters
    ----------
    nbytes
        Room that it needs.
    for_results
        Whether it comes before those who want to lay down inputs: a call that has run needs no more than this to be
        over, and then there is more memory for the others.
    """

    __slots__ = ("_began", "_seen", "_woken", "for_results", "nbytes")

    def __init__(self, nbytes: int, *, for_results: bool) -> None:
        self.nbytes, self.for_results = nbytes, for_results
        self._began = self._seen = time.monotonic()
        self._woken = _thread.allocate_lock()
        self._woken.acquire()

    @property
    def insists(self) -> bool:
        """Whether nobody behind it may take anything now."""
        return (time.monotonic() - self._began) % _AGAIN_S < INSISTS_S

    @property
    def is_new(self) -> bool:
        """Whether it has not insisted yet until the end."""
        return time.monotonic() - self._began < INSISTS_S

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
    """Those who wait, in their order; used under the lock of the pool, but for those that take none.

    Attributes
    ----------
    waiting
        All of them; it has a truth value wherever somebody wants to know.
    """

    def __init__(self) -> None:
        self.waiting: list[Claim] = []

    def is_next(self, claim: Claim | None) -> bool:
        """Whether nobody insists who comes before; a newcomer comes last."""
        for other in self.waiting.copy():
            if other is claim:
                return True
            if other.is_lost:
                self.waiting.remove(other)
            elif other.insists:
                return False
        return True

    def enter(self, claim: Claim) -> None:
        """Put somebody in the queue, if it is not there; those for results pass others who have just come."""
        claim.look()
        if claim in self.waiting:
            return
        place = len(self.waiting)
        while claim.for_results and place and not self._keeps_its_place(self.waiting[place - 1]):
            place -= 1
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

    def wanting(self, room: int) -> list[Claim]:
        """Give those whom so much memory may help: the others need not look each time; takes no lock."""
        return [claim for claim in self.waiting.copy() if claim.nbytes <= room or claim.insists]

    @staticmethod
    def _keeps_its_place(claim: Claim) -> bool:
        return claim.for_results or not claim.is_new
