"""Tensors laid into memory that both sides see, and read from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.errors import WorkerProtocolError
from neuropod_core.placement.worker._layouts import Layout, Place, aligned, encode_text, order_of

Where = dict[str, tuple[int, int, int]]
"""Name -> segment, offset, bytes of the tensors that have no place in the layout; segment 0 is where the others lie."""


class Tray:
    """The tensors of a layout at a fixed spot: views made once, filled and copied call after call."""

    __slots__ = ("_count", "_places", "_usual", "tensors")

    def __init__(self, layout: Layout, memory: Any, *, writes: bool = True) -> None:
        self.tensors: Tensors = {place.name: place.view(memory) for place in layout.places}
        self._places = tuple(
            (place.name, view.shape, view.dtype, view.strides, place.order, view)
            for place, view in zip(layout.places, self.tensors.values(), strict=True)
        )
        self._count = len(self._places)
        self._usual = all(place.order is None for place in layout.places)
        if not writes:
            for view in self.tensors.values():
                view.flags.writeable = False

    def fill(self, tensors: Mapping[str, Any]) -> bool:
        """Copy tensors in; False, and what lies there is anything, if they are not of this layout."""
        if len(tensors) != self._count:
            return False
        try:
            for name, shape, dtype, strides, order, view in self._places:
                array = tensors[name]
                if array.shape != shape or array.dtype is not dtype or type(array) is not np.ndarray:
                    return False
                if array.strides != strides and order_of(array) != order:
                    return False
                view[...] = array
        except (KeyError, AttributeError):
            return False
        return True

    def copies(self) -> Tensors:
        """Give the tensors as arrays of their own."""
        if self._usual:
            return {name: view.copy() for name, view in self.tensors.items()}
        return {name: view.copy("K") for name, view in self.tensors.items()}


class Written:
    """What is to be written: tensors with their layout, text already encoded; tells how much room it takes."""

    def __init__(self, layout: Layout, tensors: Mapping[str, Array], where: Where) -> None:
        self._layout, self._tensors = layout, dict(tensors)
        self._texts = {place.name: encode_text(tensors[place.name]) for place in layout.places if place.is_text}
        self._where, self.nbytes = dict(where), layout.nbytes
        for name, text in self._texts.items():
            self._where[name] = (0, self.nbytes, len(text))
            self.nbytes += aligned(len(text))

    def part_from(self, memory: Array) -> None:
        """Copy the tensors that share memory with `memory`: somebody else may be given it before they are written."""
        for name, array in self._tensors.items():
            if np.may_share_memory(array, memory):
                self._tensors[name] = array.copy("K")

    def write(self, memory: Any, words: Any, first: int) -> None:
        """Write the tensors into `memory`, and where those without a place lie into `words` from `first` on."""
        for number, place in enumerate(self._layout.places):
            if place.located:
                start = first + 3 * number
                words[start], words[start + 1], words[start + 2] = self._where[place.name]
            elif place.nbytes:
                place.view(memory)[...] = self._tensors[place.name]
        for name, text in self._texts.items():
            _, offset, nbytes = self._where[name]
            memory[offset : offset + nbytes] = np.frombuffer(text, np.uint8)


def read_places(layout: Layout, words: Any, first: int, room: Callable[[int], int]) -> Where:
    """Read where the tensors without a place lie, and hold it against the bytes that each segment has (`room`).

    Raises
    ------
    WorkerProtocolError
        If one lies outside.
    """
    where: Where = {}
    for number, place in enumerate(layout.places):
        if place.located:
            start = first + 3 * number
            segment, offset, nbytes = words[start], words[start + 1], words[start + 2]
            where[place.name] = (segment, offset, nbytes if place.is_text else place.nbytes)
            _check_inside(place, where[place.name], room(segment))
    return where


def _check_inside(place: Place, spot: tuple[int, int, int], room: int) -> None:
    _, offset, nbytes = spot
    least = 8 * place.items if place.is_text else 0
    if offset > room or nbytes > room - offset or nbytes < least:
        what = f"tensor {place.name!r} of {nbytes} bytes at {offset} lies outside of the {room} bytes that there are"
        raise WorkerProtocolError(what)
