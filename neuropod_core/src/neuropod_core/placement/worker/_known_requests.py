"""What calls ask for, as the worker keeps it from one call to the next of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from neuropod_core.backend import Tensors
from neuropod_core.placement.worker._board import BLOCK_OFFSET, BLOCK_SEGMENT, IN_TRAY, PLACES, TRAY_BYTES, Slot
from neuropod_core.placement.worker._layouts import Place, decode_text, layout_from_json
from neuropod_core.placement.worker._segments import Segment
from neuropod_core.placement.worker._trays import Tray, Where, read_places


class KnownRequest:
    """What a `SharedMemoryLine` introduced under a number: the layout of the inputs, and the outputs asked for."""

    __slots__ = ("layout", "outputs", "repeats", "spots", "tensors", "views")

    def __init__(self, message: Mapping[str, Any], memory: Any) -> None:
        self.layout, self.outputs = layout_from_json(message["inputs"]), message["outputs"]
        small = self.layout.fixed and self.layout.nbytes <= TRAY_BYTES
        self.tensors = Tray(self.layout, memory).tensors if small else None
        # Tensors of fixed size come again and again at the same places.
        self.repeats = not any(place.is_text for place in self.layout.places)
        self.spots: list[int] = []
        self.views: Tensors = {}

    def read(self, slot: Slot, segment: Callable[[int], Segment]) -> Tensors:
        """Give the inputs of a call: text decoded, everything else as views of where it lies.

        Raises
        ------
        WorkerProtocolError
            If they lie outside of the memory that there is.
        """
        words, layout = slot.words, self.layout
        number = words[BLOCK_SEGMENT]
        spots = [number, words[BLOCK_OFFSET]] if self.repeats else None
        if spots and not layout.fixed:
            spots += words[PLACES : PLACES + 3 * len(layout.places)].tolist()
        if spots and self.spots == spots:
            return self.views.copy()

        def room(other: int) -> int:
            at = other or number
            return TRAY_BYTES if at == IN_TRAY else segment(at).nbytes

        base, start = (slot.tray, 0) if number == IN_TRAY else (segment(number).bytes, words[BLOCK_OFFSET])
        where = {} if layout.fixed else read_places(layout, words, PLACES, room)
        inputs = {place.name: _input(place, base, start, where, segment) for place in layout.places}
        if spots is not None:
            self.spots, self.views = spots, inputs.copy()
        return inputs


def _input(place: Place, base: Any, start: int, where: Where, segment: Callable[[int], Segment]) -> Any:
    if not place.located:
        return place.view(base, start + place.offset)
    number, offset, nbytes = where[place.name]
    if place.is_text:
        return decode_text(base[start + offset : start + offset + nbytes].tobytes(), place)
    view = place.view(segment(number).bytes, offset)
    view.flags.writeable = False  # It is the caller's own array.
    return view
