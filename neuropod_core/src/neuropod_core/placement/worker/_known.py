"""What a line knows of calls and answers that come again: their layouts, and where their tensors lay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from numpy import ndarray

from neuropod_core.backend import Names, Tensors
from neuropod_core.placement.worker._blocks import Block, BlockArray, Shelf
from neuropod_core.placement.worker._board import TRAY_BYTES
from neuropod_core.placement.worker._layouts import Layout, decode_text
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._trays import Tray, Where

if TYPE_CHECKING:
    from neuropod_core.backend import Array


class Request:
    """Names, types and shapes of a call's inputs, and the outputs it asks for: known to the worker by a number."""

    __slots__ = ("block", "fill", "held", "layout", "number", "outputs", "result_bytes")

    def __init__(self, number: int, layout: Layout, outputs: Names, memory: Any) -> None:
        self.number, self.layout, self.outputs = number, layout, outputs
        fits = layout.fixed and layout.nbytes <= TRAY_BYTES
        self.fill: Callable[[Any], bool] = Tray(layout, memory).fill if fits else _never
        self.block: Block | None = None
        self.held = False  # Whether the call that runs lies in the block: else it may be anybody's by now.
        self.result_bytes = 0

    def settle(self, block: Block, shelf: Shelf, pool: Pool) -> None:
        """Know where the inputs of the next call of this layout lie, if the block is still on the shelf then.

        Those of this call lie there too: whoever calls this says so next, by `held`.
        """
        tray = Tray(self.layout, block.segment.bytes[block.offset : block.offset + block.nbytes])

        def fill(inputs: Mapping[str, Any]) -> bool:
            if any(type(array.base) is BlockArray and pool.locate(array) for array in inputs.values()):
                return False  # One that lies in shared memory need not be copied.
            mine = shelf.take(block.nbytes)
            if mine is not block:
                if mine is not None:
                    shelf.put(mine)
                return False
            self.held = True  # Before anything can interrupt: whoever clears the call then gives it back.
            if tray.fill(inputs):
                return True
            self.held = False
            shelf.put(block)
            return False

        self.fill, self.block = fill, block

    def forget(self) -> None:
        """Know nothing any more."""
        self.fill = _never

    def remember(self, arrays: Tensors, where: Where, name_again: Callable[[int, Array], bool]) -> None:
        """Know the call again that passes arrays like these, all of which lie in shared memory."""
        if len(where) == len(arrays):
            known = [(name, ref(array), array.shape, array.dtype) for name, array in arrays.items()]
            self.fill = partial(_lie_there, known, name_again)


def _lie_there(
    known: list[tuple[str, ref[Array], tuple[int, ...], Any]],
    name_again: Callable[[int, Array], bool],
    inputs: Mapping[str, Any],
) -> bool:
    """Whether `inputs` lie in shared memory, each the one that was there the last time, or named as another one."""
    if len(inputs) != len(known):
        return False
    for number, (name, before, shape, dtype) in enumerate(known):
        array = inputs.get(name)
        if array is None or array is not before():
            if type(array) is not ndarray or array.shape != shape or array.dtype is not dtype:
                return False
            if not name_again(number, array):
                return False
            known[number] = (name, ref(array), shape, dtype)
    return True


def _never(_: object) -> bool:
    return False


class Answer:
    """Names, types and shapes of results, known by the number that the worker gave them."""

    __slots__ = ("end", "layout", "spots", "tray")

    def __init__(self, layout: Layout, memory: Any) -> None:
        self.layout = layout
        self.tray = Tray(layout, memory) if layout.fixed and layout.nbytes <= TRAY_BYTES else None
        self.spots: list[tuple[str, tuple[int, ...], Any, int, tuple[int, ...] | None]] = []
        self.end = 0

    def remember(self, where: Where) -> bool:
        """Know where the results lie, if they lie there again; False where some are copied in any case."""
        places = self.layout.places
        if any(place.is_text or place.nbytes <= TRAY_BYTES for place in places):
            return False
        offsets = [where[place.name][1] if place.located else place.offset for place in places]
        self.spots = [
            (place.name, place.shape, place.dtype.numpy, offset, place.strides)
            for place, offset in zip(places, offsets, strict=True)
        ]
        self.end = max(offset + place.nbytes for place, offset in zip(places, offsets, strict=True))
        return True


def read_results(layout: Layout, memory: Any, where: Where, *, lends: bool = False) -> Tensors:
    """Give results from where they lie: copies, but for large ones where the memory `lends` itself."""
    results: dict[str, Array] = {}
    for place in layout.places:
        if place.is_text:
            _, offset, nbytes = where[place.name]
            results[place.name] = decode_text(memory[offset : offset + nbytes].tobytes(), place)
        else:
            view = place.view(memory, where[place.name][1] if place.located else None)
            results[place.name] = view if lends and place.nbytes > TRAY_BYTES else view.copy("K")
    return results
