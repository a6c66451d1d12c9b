"""One slot from the worker's side: waits for calls, runs them one after the other, and answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from neuropod_core.backend import Tensors
from neuropod_core.errors import (
    InferenceError,
    NeuropodError,
    SharedMemoryError,
)
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import (
    ALONE,
    ANSWERED,
    ASKED,
    BLOCK_SEGMENT,
    DONE,
    FAILED,
    FIRST_NAP_MS,
    GO_ON,
    GRANT_BYTES,
    GRANT_OFFSET,
    GRANT_SEGMENT,
    IN_TRAY,
    KNOWN_IN_GRANT,
    KNOWN_IN_TRAY,
    LAYOUT,
    MESSAGE_BYTES,
    NEEDS_ROOM,
    PARENT_SLEEPS,
    RESULT_BYTES,
    RESULT_IN_TRAY,
    RESULT_LAYOUT,
    RESULT_MESSAGE_BYTES,
    SPIN_IS_SAFE,
    STATUS,
    TAKEN,
    TRAY_BYTES,
    WITHDRAWN,
    WORKER_SLEEPS,
    Slot,
)
from neuropod_core.placement.worker._frames import parsed
from neuropod_core.placement.worker._granted_room import GrantedRoom
from neuropod_core.placement.worker._known_requests import KnownRequest
from neuropod_core.placement.worker._layouts import (
    MOST_LAYOUTS,
    Layout,
    facts_of,
    layout_of,
    orders_of,
)
from neuropod_core.placement.worker._segments import Segment
from neuropod_core.placement.worker._served import Desk, Served, await_the_end, logger, trace_failure
from neuropod_core.placement.worker._spin import LOOKS, Spin, leave_this_cpu
from neuropod_core.placement.worker._travel import fitting_facts
from neuropod_core.placement.worker._trays import Tray, Where, Written
from neuropod_core.results import here


class SharedMemoryDesk(Desk):
    """Serves one slot.

    Parameters
    ----------
    slot, bell, ring
        Where calls come in, what wakes this side, and what wakes the parent's.
    served
        What runs.
    segment
        Gives a segment by its number, waiting until the parent has sent it.
    spins
        Whether it may look for calls instead of sleeping.
    keeps_order
        Whether the parent knows of results in another order than the usual one.
    """

    def __init__(
        self,
        slot: Slot,
        bell: Doorbell,
        ring: Doorbell,
        served: Served,
        *,
        segment: Callable[[int], Segment],
        spins: bool,
        keeps_order: bool,
    ) -> None:
        self._keeps_order = keeps_order
        self._slot, self._words, self._bell, self._ring, self._segment = slot, slot.words, bell, ring, segment
        self._served, self._executor = served, served.executor
        self._spin = Spin(allowed=spins)
        self._traces = served.traces
        self._requests: dict[int, KnownRequest] = {}
        self._layouts: dict[Any, int] = {}
        self._last: tuple[int, Tray] | None = None  # With the status that says so.
        self._last_in_room: tuple[int, list[tuple[str, tuple[int, ...], Any, int]]] | None = None
        self._last_granted: tuple[tuple[int, ...], int, Tray] | None = None
        self._room_before: GrantedRoom | None = None
        self._waiting: Written | None = None
        self._message_again = self._call = self._passed_over = 0
        self._fresh: object = None  # Key of a layout that the parent may not have seen.
        self._forgets = False  # Whether the parent may not have seen that it is to forget the layouts before.
        self._numbers = count(1)

    def serve(self) -> None:
        """Answer calls until the process ends."""
        is_announced = False
        while True:
            self._wait(is_announced=is_announced)
            is_announced = self.answer()

    def answer(self, *, may_look: bool = True, runs: bool = True) -> bool:
        """Answer the call that is there; tell whether the parent was told that it has to ring for the next one.

        It is not told so if this side `may_look` for the next call, and the caller is alone. Where the model does not
        run, the answer is an error.
        """
        words = self._words
        self._call = words[TAKEN] = self._call + 1
        try:
            words[STATUS] = self._answer(runs=runs)
        except NeuropodError as error:
            self._fail(error)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - said as `Neuropod.infer` says it in process
            self._fail(self._served.unforeseen(error))
        is_announced = not (may_look and words[ALONE])
        if is_announced:
            words[WORKER_SLEEPS] = 1
        words[ANSWERED] = self._call
        if words[PARENT_SLEEPS] or not SPIN_IS_SAFE:
            self._ring.ring()
        return is_announced

    # -- waiting

    @property
    def is_asked(self) -> bool:
        """Whether there is a call."""
        return bool(self._words[ASKED] != self._call)

    @property
    def is_withdrawn(self) -> bool:
        """Whether nobody waits any longer for the call that is there."""
        return bool(self._words[WITHDRAWN] == self._call + 1)

    def announce(self) -> None:
        """Have the parent ring with the next call, unless it looked a moment before."""
        self._words[WORKER_SLEEPS] = 1

    def look(self) -> bool:
        """Look for the next call of somebody who is alone; tell whether it came."""
        words, call, spin = self._words, self._call + 1, self._spin
        if not words[ALONE] or not (spin.steady or spin.looks()):
            return False
        for _ in LOOKS:
            if words[ASKED] == call:
                if words[PARENT_SLEEPS]:
                    self._make_way()
                if not spin.steady:
                    spin.hit()
                    self._passed_over = 0
                return True
        spin.miss()
        return False

    def wake(self) -> None:
        """Have the next call come without a ring, if its caller is alone: it will be looked for."""
        words = self._words
        words[WORKER_SLEEPS] = 0
        if words[ALONE] and words[PARENT_SLEEPS]:
            self._make_way()

    def _wait(self, *, is_announced: bool) -> None:
        if is_announced:
            self._await_ring(self._call + 1)
        elif self.look():
            return
        else:
            self._sleep(self._call + 1)
        self.wake()

    def _await_ring(self, call: int) -> None:
        """Sleep until the next call; the parent knows that it has to ring."""
        words, bell = self._words, self._bell
        while bell.wait():
            if words[ASKED] == call:
                return
        await_the_end()

    def _sleep(self, call: int) -> None:
        """Sleep until the next call, where the parent may not have seen that somebody does."""
        words = self._words
        nap_ms: float | None = FIRST_NAP_MS
        self.announce()
        looked = not SPIN_IS_SAFE
        while looked or words[ASKED] != call:
            looked = False
            if not self._bell.sleep(nap_ms):
                nap_ms = None

    def _make_way(self) -> None:
        """Go to another CPU where the parent looked for an answer in vain: it did so on the one that this side had."""
        self._passed_over += 1
        if self._passed_over & (self._passed_over - 1) == 0:  # Ever less often, while it does not help.
            leave_this_cpu()

    # -- running

    def _answer(self, *, runs: bool) -> int:
        words = self._words
        number = words[LAYOUT]
        words[RESULT_MESSAGE_BYTES] = 0
        if number == GO_ON:
            return self._go_on()
        if self._fresh is not None and self._waiting is None:
            self._fresh, self._forgets = None, False  # The parent has taken the answer that introduced it.
        request = self._introduced(number) if words[MESSAGE_BYTES] else self._requests[number]
        if not runs:
            raise InferenceError("nobody waits for this call any longer")
        return self._traced(request) if self._traces else self._run(request)

    def _run(self, request: KnownRequest) -> int:
        inputs = request.tensors.copy() if request.tensors else request.read(self._slot, self._segment)
        if self._words[GRANT_BYTES]:
            return self._run_with_room(inputs, request)
        results = self._executor.infer(inputs, request.outputs)
        last = self._last
        if last is not None and type(results) is dict and last[1].fill(results):
            return last[0]
        return self._hand_over(self._shippable(results))

    def _run_with_room(self, inputs: Tensors, request: KnownRequest) -> int:
        """Run where the parent has granted room: results made there need not be copied."""
        spot = tuple(self._words[GRANT_SEGMENT : GRANT_BYTES + 1])
        room = here.room = self._room_of(spot)
        try:
            results = self._executor.infer(inputs, request.outputs)
        finally:
            here.room = None
        last = self._last_in_room
        if last is not None and room.holds(results, last[1]):
            return last[0]
        filled = self._last_granted
        known = filled is not None and filled[0] == spot and not room.made and type(results) is dict
        if known and filled is not None and filled[2].fill(results):
            return filled[1]
        return self._hand_over(self._shippable(results), room)

    def _room_of(self, spot: tuple[int, ...]) -> GrantedRoom:
        room = self._room_before
        if room is None or room.spot != spot:
            segment, start, nbytes = spot
            memory = self._segment(segment).bytes[start : start + nbytes]
            room = self._room_before = GrantedRoom(memory, spot)
        room.clear()
        return room

    def _traced(self, request: KnownRequest) -> int:
        started = time.perf_counter()
        try:
            status = self._run(request)
        except BaseException as error:
            trace_failure(self._slot.number, self._call, started, error)
            raise
        spent_us = (time.perf_counter() - started) * 1e6
        logger.debug("slot %d, call %d: ran in %.1f us", self._slot.number, self._call, spent_us)
        return status

    def _introduced(self, number: int) -> KnownRequest:
        message = parsed(bytes(self._slot.envelope[: self._words[MESSAGE_BYTES]]))
        if message["forget"]:
            self._requests.clear()
        request = self._requests[number] = KnownRequest(message, self._slot.tray)
        return request

    # -- answering

    def _shippable(self, results: object) -> Tensors:
        return self._served.shippable(results, self._slot.shape.located)

    def _hand_over(self, results: Tensors, room: GrantedRoom | None = None) -> int:
        where = self._made_there(results, room)
        if room is not None and room.used and not where:
            results = room.without(results)
        orders = orders_of(results, keeps_order=self._keeps_order)
        key, layout = tuple(facts_of(results, where, orders)), layout_of(results, where, orders)
        number = self._layouts.get(key) or self._introduce(key, layout)
        if layout.fixed and layout.nbytes <= TRAY_BYTES:
            self._last = (number << KNOWN_IN_TRAY, Tray(layout, self._slot.result_tray))
        self._words[RESULT_LAYOUT] = number
        if not where or room is None:
            self._last_in_room = None
            status = self._placed(Written(layout, results, {}))
            self._remember(number, layout, status)
            return status
        return self._left_there(number, layout, results, where, room)

    def _remember(self, number: int, layout: Layout, status: int) -> None:
        """Know where results of this layout lie, should the same room be granted for them again."""
        words, self._last_granted = self._words, None
        if status == DONE and layout.fixed and not words[RESULT_IN_TRAY]:
            spot = tuple(words[GRANT_SEGMENT : GRANT_BYTES + 1])
            memory = self._room_of(spot).memory
            self._last_granted = (spot, (number << KNOWN_IN_TRAY) + KNOWN_IN_GRANT, Tray(layout, memory))

    def _made_there(self, results: Tensors, room: GrantedRoom | None) -> Where:
        """Tell where results lie that were made in the granted room: all of them, or none counts."""
        where: Where = {}
        for name, array in results.items():
            offset = room.offset_of(array) if room is not None else None
            if offset is None or array.dtype.hasobject:
                return {}
            where[name] = (0, offset, array.nbytes)
        return where

    def _left_there(self, number: int, layout: Layout, results: Tensors, where: Where, room: GrantedRoom) -> int:
        Written(layout, results, where).write(room.memory, self._words, self._slot.shape.result_places)
        self._words[RESULT_IN_TRAY] = 0
        places = [(name, array.shape, array.dtype, where[name][1]) for name, array in results.items()]
        self._last_in_room = ((number << KNOWN_IN_TRAY) + KNOWN_IN_GRANT, places)
        return DONE

    def _introduce(self, key: Any, layout: Layout) -> int:
        if len(self._layouts) > MOST_LAYOUTS:
            self._forgets = True
            self._layouts.clear()
            self._last = self._last_in_room = self._last_granted = None
        number = self._layouts[key] = next(self._numbers)
        self._fresh = key
        self._say({"results": layout.to_json(), "forget": self._forgets})
        return number

    def _placed(self, written: Written) -> int:
        words, first = self._words, self._slot.shape.result_places
        if written.nbytes <= TRAY_BYTES:
            written.write(self._slot.result_tray, words, first)
            words[RESULT_IN_TRAY] = 1
            return DONE
        words[RESULT_IN_TRAY], granted = 0, words[GRANT_BYTES]
        if written.nbytes <= granted:
            start = words[GRANT_OFFSET]
            written.write(self._segment(words[GRANT_SEGMENT]).bytes[start : start + granted], words, first)
            return DONE
        if (number := words[BLOCK_SEGMENT]) != IN_TRAY:
            written.part_from(self._segment(number).bytes)  # The parent gives the room of the inputs away.
        self._waiting, words[RESULT_BYTES] = written, written.nbytes
        self._message_again = words[RESULT_MESSAGE_BYTES]
        return NEEDS_ROOM

    def _go_on(self) -> int:
        written, self._waiting = self._waiting, None
        if written is None or not self._words[GRANT_BYTES]:
            raise SharedMemoryError("there was no room for the results")
        self._words[RESULT_MESSAGE_BYTES] = self._message_again
        return self._placed(written)

    def _fail(self, error: NeuropodError) -> None:
        if self._fresh is not None:
            self._layouts.pop(self._fresh, None)
            self._last = self._last_in_room = self._last_granted = self._fresh = None
        self._write_message(fitting_facts(error, len(self._slot.result_envelope)))
        self._words[STATUS] = FAILED

    def _say(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > len(self._slot.result_envelope):
            raise InferenceError(f"the names and shapes of the results take {len(body)} bytes: too many")
        self._write_message(body)

    def _write_message(self, body: bytes) -> None:
        self._slot.result_envelope[: len(body)] = body
        self._words[RESULT_MESSAGE_BYTES] = len(body)
