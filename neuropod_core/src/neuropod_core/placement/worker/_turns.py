"""Several slots served by one thread: for models that run one call at a time.

Callers lay down their calls while another one runs, and each of them sleeps once, for its own answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import FIRST_NAP_MS
from neuropod_core.placement.worker._desk import SharedMemoryDesk
from neuropod_core.placement.worker._served import Desk, await_the_end


class Turns(Desk):
    """Serves slots that share a bell: whoever had the last turn comes after everybody else who waits.

    Parameters
    ----------
    desks
        One for each slot.
    bell
        What the parent rings, whichever slot it is for.
    """

    def __init__(self, desks: Sequence[SharedMemoryDesk], bell: Doorbell) -> None:
        self._bell = bell
        self._after = {desk: [*desks[number:], *desks[:number]] for number, desk in enumerate(desks, 1)}
        self._doubts = False  # Whether a call may have come, a moment ago, that nobody rang for.

    def serve(self) -> None:
        """Answer calls until the process ends."""
        for last in self._after:
            last.announce()
        asked = self._awaited_after_announcing(last)
        while True:
            for desk in asked[:-1]:
                desk.answer(may_look=False, runs=not desk.is_withdrawn)
            last = asked[-1]
            last.wake()
            if last.answer(runs=not last.is_withdrawn):
                asked = self._awaited(last)
            elif last.look():
                asked = [last]
            else:
                last.announce()
                asked = self._awaited_after_announcing(last)

    def _awaited(self, last: SharedMemoryDesk) -> list[SharedMemoryDesk]:
        """Sleep until somebody asks; the parent knows of every slot that it has to ring."""
        if self._doubts:
            self._doubts = False
            if asked := self._asked(last):
                return asked
        while True:
            if not self._bell.wait():
                await_the_end()
            if asked := self._asked(last):
                return asked

    def _awaited_after_announcing(self, last: SharedMemoryDesk) -> list[SharedMemoryDesk]:
        """Sleep until somebody asks, where the parent may not have seen of one slot that it has to ring."""
        self._doubts = self._bell.sleep(FIRST_NAP_MS)
        return self._asked(last) or self._awaited(last)

    def _asked(self, last: SharedMemoryDesk) -> list[SharedMemoryDesk]:
        """Give the slots that wait, in their order; it begins behind the one that had the last turn."""
        return [desk for desk in self._after[last] if desk.is_asked]
