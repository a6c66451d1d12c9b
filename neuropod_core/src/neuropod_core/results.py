"""Where results are best written: memory that the placement hands to the caller without a copy.

A model or a backend that makes a result itself may make it here. In a worker, the array then lies in memory that the
caller's process sees, and the result goes there without being copied; anywhere else it is a plain array. Either way it
is the caller's once it was returned, and must not be written to or returned again.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np

from neuropod_core.backend import Array

__all__ = ["empty"]


class Room(Protocol):
    """What a placement offers for the results of the call that runs in this thread."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
        """Give an array there; None if there is no room for it."""


class _Here(threading.local):
    room: Room | None = None


here = _Here()


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type | str) -> Array:
    """Give an array for a result, its content undefined.

    Parameters
    ----------
    shape, dtype
        As `numpy.empty` takes them.

    Examples
    --------
    >>> doubled = empty((3,), "float32")
    >>> doubled[...] = 2.0
    """
    room = here.room
    if room is not None:
        wanted = np.dtype(dtype)
        array = room.empty(shape, wanted) if not wanted.hasobject else None
        if array is not None:
            return array
    return np.empty(shape, dtype)
