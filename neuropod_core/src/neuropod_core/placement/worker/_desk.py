"""One slot from the worker's side: waits for calls, runs them one after the other, and answers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from neuropod_core.backend import Executor, Tensors
from neuropod_core.errors import (
    InferenceError,
    NeuropodError,
    SharedMemoryError,
    TensorMismatchError,
)
from neuropod_core.placement.worker._board import (
    ALONE,
    ANSWERED,
    ASKED,
    BLOCK_OFFSET,
    BLOCK_SEGMENT,
    DONE,
    FAILED,
    FIRST_NAP_MS,
    GO_ON,
    GRANT_BYTES,
    GRANT_OFFSET,
    GRANT_SEGMENT,
    IN_TRAY,
    KNOWN_IN_TRAY,
    LAYOUT,
    MESSAGE_BYTES,
    NEEDS_ROOM,
    PARENT_SLEEPS,
    PLACES,
    RESULT_BYTES,
    RESULT_IN_TRAY,
    RESULT_LAYOUT,
    RESULT_MESSAGE_BYTES,
    SPIN_IS_SAFE,
    STATUS,
    TRAY_BYTES,
    WORKER_SLEEPS,
    Doorbell,
    Slot,
)
from neuropod_core.placement.worker._frames import parsed
from neuropod_core.placement.worker._layouts import Layout, Place, decode_text, layout_from_json, layout_of
from neuropod_core.placement.worker._memory import Segment
from neuropod_core.placement.worker._spin import LOOKS, Spin
from neuropod_core.placement.worker._travel import facts_of
from neuropod_core.placement.worker._trays import Tray, Where, Written, read_places
from neuropod_core.problem import Problem
from neuropod_core.tensors import as_array, as_text, describe, dtype_of

_MOST_LAYOUTS = 256

_logger = logging.getLogger("neuropod.worker")


class _Request:
    """What `Line` introduced under a number: the layout of a call's inputs, and the outputs it asks for."""

    __slots__ = ("layout", "outputs", "tensors")

    def __init__(self, message: Mapping[str, Any], memory: Any) -> None:
        self.layout, self.outputs = layout_from_json(message["inputs"]), message["outputs"]
        small = self.layout.fixed and self.layout.nbytes <= TRAY_BYTES
        self.tensors = Tray(self.layout, memory).tensors if small else None


class Desk:
    """Serves one slot.

    Parameters
    ----------
    slot, bell, ring
        Where calls come in, what wakes this side, and what wakes the parent's.
    segment
        Gives a segment by its number, waiting until the parent has sent it.
    executor, problem, platform
        What runs.
    """

    def __init__(
        self,
        slot: Slot,
        bell: Doorbell,
        ring: Doorbell,
        segment: Callable[[int], Segment],
        executor: Executor,
        problem: Problem,
        platform: str,
        *,
        spins: bool,
    ) -> None:
        self._slot, self._words, self._bell, self._ring, self._segment = slot, slot.words, bell, ring, segment
        self._executor, self._platform = executor, platform
        self._notations = {spec.name: spec.notation for spec in problem.outputs}
        self._spin = Spin(allowed=spins)
        self._traces = _logger.isEnabledFor(logging.DEBUG)
        self._requests: dict[int, _Request] = {}
        self._layouts: dict[Any, int] = {}
        self._last: tuple[int, Tray] | None = None  # With the status that says so.
        self._waiting: Written | None = None
        self._message_again = self._call = 0
        self._fresh: object = None  # Key of a layout that the parent may not have seen.
        self._numbers = count(1)

    def serve(self) -> None:
        """Answer calls until the process ends."""
        words = self._words
        while True:
            self._wait()
            self._call += 1
            try:
                words[STATUS] = self._answer()
            except NeuropodError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 - said as `Neuropod.infer` says it in process
                self._fail(_unforeseen(self._platform, error))
            words[ANSWERED] = self._call
            if words[PARENT_SLEEPS] or not SPIN_IS_SAFE:
                self._ring.ring()

    # -- waiting

    def _wait(self) -> None:
        words, call, spin = self._words, self._call + 1, self._spin
        if words[ALONE] and (spin.steady or spin.looks()):
            for _ in LOOKS:
                if words[ASKED] == call:
                    if not spin.steady:
                        spin.hit()
                    return
            spin.miss()
        words[WORKER_SLEEPS] = 1
        nap_ms: float | None = FIRST_NAP_MS
        looked = not SPIN_IS_SAFE
        while looked or words[ASKED] != call:
            looked = False
            if not self._bell.sleep(nap_ms):
                nap_ms = None
        words[WORKER_SLEEPS] = 0

    # -- running

    def _answer(self) -> int:
        words = self._words
        number = words[LAYOUT]
        words[RESULT_MESSAGE_BYTES] = 0
        if number == GO_ON:
            return self._go_on()
        if self._fresh is not None and self._waiting is None:
            self._fresh = None  # The parent has taken the answer that introduced it.
        request = self._introduced(number) if words[MESSAGE_BYTES] else self._requests[number]
        return self._traced(request) if self._traces else self._run(request)

    def _run(self, request: _Request) -> int:
        inputs = request.tensors.copy() if request.tensors else self._inputs(request.layout)
        results = self._executor.infer(inputs, request.outputs)
        last = self._last
        if last is not None and type(results) is dict and last[1].fill(results):
            return last[0]
        return self._hand_over(self._shippable(results))

    def _traced(self, request: _Request) -> int:
        started = time.perf_counter()
        status = self._run(request)
        spent_us = (time.perf_counter() - started) * 1e6
        _logger.debug("slot %d, call %d: ran in %.1f us, status %d", self._slot.number, self._call, spent_us, status)
        return status

    def _introduced(self, number: int) -> _Request:
        message = parsed(bytes(self._slot.envelope[: self._words[MESSAGE_BYTES]]))
        if message["forget"]:
            self._requests.clear()
        request = self._requests[number] = _Request(message, self._slot.tray)
        return request

    def _inputs(self, layout: Layout) -> Tensors:
        words, number = self._words, self._words[BLOCK_SEGMENT]
        base, start = (self._slot.tray, 0) if number == IN_TRAY else self._block(number)
        where = {} if layout.fixed else read_places(layout, words, PLACES, self._room)
        return {place.name: self._input(place, base, start, where) for place in layout.places}

    def _input(self, place: Place, base: Any, start: int, where: Where) -> Any:
        if not place.located:
            return place.view(base, start + place.offset)
        segment, offset, nbytes = where[place.name]
        if place.is_text:
            return decode_text(base[start + offset : start + offset + nbytes].tobytes(), place)
        view = place.view(self._segment(segment).bytes, offset)
        view.flags.writeable = False  # It is the caller's own array.
        return view

    def _block(self, number: int) -> tuple[Any, int]:
        return self._segment(number).bytes, self._words[BLOCK_OFFSET]

    def _room(self, segment: int) -> int:
        if segment:
            return self._segment(segment).nbytes
        number = self._words[BLOCK_SEGMENT]
        return TRAY_BYTES if number == IN_TRAY else self._segment(number).nbytes

    # -- answering

    def _shippable(self, results: object) -> Tensors:
        """Give results as arrays that can travel; what an executor must not return is said as the checks say it."""
        if not isinstance(results, Mapping):
            raise TensorMismatchError("outputs", "tensors by name", describe(results))
        return {name: self._array(name, value) for name, value in results.items()}

    def _array(self, name: object, value: object) -> Any:
        array = as_array(value)
        if array is not None and array.dtype.kind in "OUST":
            array = as_text(array)
        dtype = None if array is None else dtype_of(array)
        if array is None or dtype is None or array.dtype != dtype.numpy or not isinstance(name, str):
            notation = self._notations.get(str(name), "a tensor")
            raise TensorMismatchError(f"outputs.{name}", notation, describe(value))
        return array

    def _hand_over(self, results: Tensors) -> int:
        key = tuple((name, array.shape, array.dtype) for name, array in results.items())
        layout = layout_of(results)
        number = self._layouts.get(key) or self._introduce(key, layout)
        if layout.fixed and layout.nbytes <= TRAY_BYTES:
            self._last = (number << KNOWN_IN_TRAY, Tray(layout, self._slot.result_tray))
        self._words[RESULT_LAYOUT] = number
        return self._placed(Written(layout, results, {}))

    def _introduce(self, key: Any, layout: Layout) -> int:
        forget = len(self._layouts) > _MOST_LAYOUTS
        if forget:
            self._layouts.clear()
            self._last = None
        number = self._layouts[key] = next(self._numbers)
        self._fresh = key
        self._say({"results": layout.to_json(), "forget": forget})
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
            self._last = self._fresh = None
        self._say(facts_of(error))
        self._words[STATUS] = FAILED

    def _say(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > len(self._slot.result_envelope):
            body = json.dumps(facts_of(InferenceError("an answer did not fit its envelope"))).encode()
        self._slot.result_envelope[: len(body)] = body
        self._words[RESULT_MESSAGE_BYTES] = len(body)


def _unforeseen(platform: str, error: Exception) -> InferenceError:
    said = InferenceError(f"the {platform} backend raised {type(error).__name__}: {error}")
    said.__cause__ = error
    return said

