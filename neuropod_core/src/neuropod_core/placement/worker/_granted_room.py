"""The room for the results of one call, on the worker's side: models make arrays there that need not be copied."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from neuropod_core.backend import Tensors
from neuropod_core.placement.worker._layouts import aligned


class GrantedRoom:
    """The room that the parent granted for the results of one call."""

    def __init__(self, memory: Any, spot: tuple[int, ...]) -> None:
        self.memory, self.spot, self._end = memory, spot, 0
        self.made: list[tuple[Any, int]] = []  # Arrays, and where each begins.

    def clear(self) -> None:
        """Forget what was made for the call before."""
        self._end = 0
        self.made.clear()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Give an array there; None if there is no room for it."""
        if isinstance(shape, int):
            shape = (shape,)
        start, end = self._end, self._end + aligned(prod(shape) * dtype.itemsize)
        if end > self.memory.nbytes:
            return None
        array = np.ndarray(shape, dtype, buffer=self.memory, offset=start)
        self._end = end
        self.made.append((array, start))
        return array

    def has_made(self, array: Any) -> bool:
        """Whether this very array was made here."""
        return any(made is array for made, _ in self.made)

    def offset_of(self, array: Any) -> int | None:
        """Tell where an array lies that was made here; once, since no two results share their memory."""
        for number, (made, offset) in enumerate(self.made):
            if made is array:
                del self.made[number]
                return offset
        return None

    @property
    def used(self) -> bool:
        """Whether anything was made here."""
        return self._end > 0

    def without(self, results: Tensors) -> Tensors:
        """Take what lies here to memory of its own: it must not be written over while it is written."""
        return {
            name: array.copy("K") if np.may_share_memory(array, self.memory) else array
            for name, array in results.items()
        }

    def holds(self, results: object, places: Sequence[tuple[str, tuple[int, ...], Any, int]]) -> bool:
        """Whether `results` are exactly the arrays made here, in the same places as the last time."""
        if type(results) is not dict or len(results) != len(places) or len(self.made) != len(places):
            return False
        for (name, shape, dtype, offset), (made, start) in zip(places, self.made, strict=True):
            array: Any = results.get(name)
            if array is not made or start != offset or array.shape != shape or array.dtype is not dtype:
                return False
        return True
