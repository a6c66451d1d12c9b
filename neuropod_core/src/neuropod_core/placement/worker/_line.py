"""One slot from the parent's side: a call is put, asked, waited for and taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import NeuropodError, WorkerProtocolError
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import (
    ALONE,
    ANSWERED,
    ASKED,
    FIRST_NAP_MS,
    GO_ON,
    GRANT_BYTES,
    LAYOUT,
    MESSAGE_BYTES,
    NEEDS_ROOM,
    PARENT_SLEEPS,
    SPIN_IS_SAFE,
    STATUS,
    TAKEN,
    TRAY_BYTES,
    WITHDRAWN,
    WORKER_SLEEPS,
    Slot,
)
from neuropod_core.placement.worker._connection import Line, OverdueError, RevokedError
from neuropod_core.placement.worker._inputs import Inputs
from neuropod_core.placement.worker._layouts import plain
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._results import Results
from neuropod_core.placement.worker._segments import Segment
from neuropod_core.placement.worker._spin import LOOKS, Spin
from neuropod_core.placement.worker._waiting import carried


class SharedMemoryLine(Line):
    """Carries one call at a time to the worker and back.

    Parameters
    ----------
    slot
        Where it lies on the board.
    pool
        Where tensors lie that are too large for a tray.
    ring
        Wakes the worker's side.
    tell
        Makes a segment known to the worker.
    spins
        Whether it may look for answers instead of sleeping.
    keeps_order
        See `Inputs`.

    Attributes
    ----------
    threads
        Do for tasks what takes long, or waits for room.
    is_left
        Whether the task whose call a thread lays down, or takes, has gone.
    """

    def __init__(
        self,
        slot: Slot,
        pool: Pool,
        ring: Doorbell,
        tell: Callable[[Segment], None],
        *,
        spins: bool,
        keeps_order: bool,
    ) -> None:
        super().__init__()
        self.slot, self.bell = slot, Doorbell()
        self._words, self._ring = slot.words, ring
        self._spin = Spin(allowed=spins)
        self.is_left, self._is_asked = False, True
        self._steady = False  # Whether the words say already what the next call of the same layout says.
        self._inputs, self._results = Inputs(slot, pool, tell, keeps_order=keeps_order), Results(slot, pool, tell)

    threads: ThreadPoolExecutor

    # -- the call

    def call_through(
        self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None, *, spins: bool
    ) -> Tensors:
        """Put, ask, wait and take."""
        request, words, spin, results = self._inputs.request, self._words, self._spin, self._results
        looks = spins and (spin.steady or spin.looks())
        if self._steady and request.outputs == outputs and request.fill(inputs):  # type: ignore[union-attr]  # steady: there is one
            # The same once more, as most calls are: what `put`, `ask`, `wait` and `take` come to, without a detour.
            if request.result_bytes > TRAY_BYTES:  # type: ignore[union-attr]  # as above
                self.used = True
                results.grant_again(request.result_bytes)  # type: ignore[union-attr]  # as above
            elif request.block is not None:  # type: ignore[union-attr]  # as above
                self.used = True
            if not looks:
                self.ask(looks=False)
                return self._rest_of_call(deadline, looks=False)
            self.call = call = self.call + 1
            words[ALONE], words[ASKED] = 1, call
            if words[WORKER_SLEEPS]:
                self._ring.ring()
            foreseen = results.foreseen() if results.grant is not None else None
            for _ in LOOKS:
                if words[ANSWERED] == call:
                    if not spin.steady:
                        spin.hit()
                    if foreseen is not None and foreseen[0] == words[STATUS]:
                        return results.lent(foreseen)
                    copies = results.known.get(words[STATUS])
                    return copies() if copies else self._rest_of_call(deadline, looks=looks)
            spin.miss()
            return self._rest_of_call(deadline, looks=False)
        self.put(inputs, outputs, deadline)
        self.ask(looks=looks)
        return self._rest_of_call(deadline, looks=looks)

    async def call_async(self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None) -> Tensors:
        """Put, ask, await and take."""
        return await carried(self, inputs, outputs, deadline)

    def _rest_of_call(self, deadline: float | None, *, looks: bool) -> Tensors:
        self.wait(deadline, looks=looks)
        while (results := self.take(deadline)) is None:
            self.ask(looks=looks)
            self.wait(deadline, looks=looks)
        return results

    def put(self, inputs: Mapping[str, Any], outputs: Names, deadline: float | None = None) -> None:
        """Lay a call's inputs where the worker will read them."""
        self._is_asked = False
        request, words = self._inputs.request, self._words
        if request is not None and request.outputs == outputs and request.fill(inputs):
            self.used = self.used or request.block is not None
            words[LAYOUT], words[MESSAGE_BYTES] = request.number, 0
        else:
            self._steady, self.used = False, True
            request = self._inputs.put(plain(inputs), outputs, deadline, self._check)
        self._results.request = request
        if request.result_bytes > TRAY_BYTES:
            self.used = True
            self._results.grant_again(request.result_bytes)
        else:
            self._results.grant_none()
        self._steady = not self._inputs.are_news

    def ask(self, *, looks: bool) -> None:
        """Let the worker see the call, and whether somebody looks for its answer or wants to be rung for."""
        words = self._words
        self.call = call = self.call + 1
        self._is_asked = True
        if self._inputs.are_news:
            self._inputs.note_asked()
        words[ALONE], words[PARENT_SLEEPS] = looks, not looks
        words[ASKED] = call
        if words[WORKER_SLEEPS] or not SPIN_IS_SAFE:
            self._ring.ring()

    def wait(self, deadline: float | None, *, looks: bool) -> None:
        """Wait for the answer: look for a while where the worker was told so, then sleep.

        Raises
        ------
        OverdueError
            If there is none in time.
        NeuropodError
            What befell the worker, if it is gone.
        """
        words, call, spin = self._words, self.call, self._spin
        if looks:
            for _ in LOOKS:
                if words[ANSWERED] == call:
                    if not spin.steady:
                        spin.hit()
                    return
            spin.miss()
        try:
            if words[PARENT_SLEEPS]:
                self._await_ring(deadline)
            else:
                words[PARENT_SLEEPS] = 1
                self._sleep(deadline)
        finally:
            words[PARENT_SLEEPS] = 0

    @property
    def answered(self) -> bool:
        """Whether the answer is there."""
        return bool(self._words[ANSWERED] == self.call)

    @property
    def runs(self) -> bool:
        """Whether the worker has taken the call and not answered it."""
        return not self.untouched and not self.answered

    @property
    def taken(self) -> int:
        """Number of the last call that the worker took."""
        return int(self._words[TAKEN])

    @property
    def raised(self) -> int:
        """How many calls the worker has answered by an error."""
        return self._results.raised

    @property
    def untouched(self) -> bool:
        """Whether the worker has not taken the call: if it is gone, another one may run it."""
        return bool(self._words[TAKEN] != self.call)

    @property
    def never_began(self) -> bool:
        """Whether the worker has not taken the call, or was not even asked."""
        return not self._is_asked or self.untouched

    def take(self, deadline: float | None = None) -> Tensors | None:
        """Give the results; None if the worker needed room for them, got it, and has to be asked once more.

        Raises
        ------
        NeuropodError
            What the worker raised; a `WorkerProtocolError` if what it says cannot be.
        """
        results, request = self._results.take(), self._inputs.request
        if self._words[GRANT_BYTES] and request is not None and request.result_bytes <= TRAY_BYTES:
            self._steady = False  # What was granted is taken back, and must not be granted with the next call.
        if results is None:
            self._words[LAYOUT], self._words[MESSAGE_BYTES] = GO_ON, 0
            self._steady, self.used = False, True
            self._inputs.give_back()
            self._results.give_room(deadline, self._check)
        return results

    def copies_more_than(self, nbytes: int) -> bool:
        """Whether taking the results means to copy more than that."""
        return self._results.copies_more_than(nbytes)

    @property
    def descriptor(self) -> int:
        """That of the bell."""
        return self.bell.descriptor

    def silence(self) -> None:
        """Forget that somebody rang."""
        self.bell.silence()

    def listen(self) -> None:
        """Have the bell rung when the answer comes, with nobody waiting here."""
        self._words[PARENT_SLEEPS] = 1
        self._ring.ring()  # Whoever was interrupted may have asked and not rung.

    def unlisten(self) -> None:
        """Take `listen` back."""
        self._words[PARENT_SLEEPS] = 0

    def give_up(self, inputs: object) -> None:
        """Keep the inputs, which the worker may read still, and let it skip the call if it has not begun."""
        self._inputs.kept, self.used = inputs, True
        self._words[WITHDRAWN] = self.call

    def rest(self) -> bool:
        """After a call that did not come to its end: whether the worker is done with it, so that the slot is free."""
        asked = self._words[ASKED]
        if asked != self.call:
            if asked != self.call - 1:
                raise WorkerProtocolError(f"call {self.call} became call {asked}")
            self.call = asked  # Interrupted before the worker saw it.
            self._words[WITHDRAWN] = 0
        if not self.answered or self.refuse_room():
            return False
        self._results.note_what_is_said_once()
        return True

    def refuse_room(self) -> bool:
        """Where the worker waits for room, let it drop the results; tell whether there is something to wait for."""
        if self._words[STATUS] != NEEDS_ROOM:
            return False
        self._results.refuse_room()
        self._words[LAYOUT], self._words[MESSAGE_BYTES] = GO_ON, 0
        self._steady = False
        self.ask(looks=False)
        return True

    def clear(self) -> None:
        """Let go of everything that the call used; the worker is done with it."""
        self.used = False
        self._words[PARENT_SLEEPS] = 0
        self._inputs.clear()
        self._results.clear()

    def fail(self, error: NeuropodError) -> None:
        """Wake whoever waits here."""
        self.failure = error
        self.bell.ring()

    def close(self) -> None:
        """Give back what is kept for the next call, and keep nothing that leads back here: so bells are closed."""
        self._steady = False  # The call that runs, if any, still gives back what it holds.
        self._inputs.close()
        self._results.close()

    def _check(self) -> None:
        """End the wait for room of a call that nobody can or wants to bring to its end."""
        if self.failure is not None:
            raise self.failure
        if self.is_left:
            raise RevokedError

    # -- waiting

    def _await_ring(self, deadline: float | None) -> None:
        """Sleep; the worker knows that it has to ring."""
        words, call, bell = self._words, self.call, self.bell
        while True:
            if self.failure is not None:
                raise self.failure
            if deadline is None:
                bell.wait()
            else:
                bell.sleep(_left_ms(deadline))
            if words[ANSWERED] == call:
                return

    def _sleep(self, deadline: float | None) -> None:
        """Sleep, where the worker may not have seen that somebody does."""
        nap_ms: float | None = FIRST_NAP_MS
        looked = not SPIN_IS_SAFE
        while looked or self._words[ANSWERED] != self.call:
            looked = False
            if self.failure is not None:
                raise self.failure
            if deadline is not None:
                left_ms = _left_ms(deadline)
                nap_ms = left_ms if nap_ms is None else min(nap_ms, left_ms)
            if not self.bell.sleep(nap_ms):
                nap_ms = None


def _left_ms(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise OverdueError(0, "its answer was waited for")
    return left_s * 1000
