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

__all__ = ["copied", "empty", "is_fresh"]


class Room(Protocol):
    """What a placement offers for the results of the call that runs in this thread."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
        """Give an array there; None if there is no room for it."""

    def has_made(self, array: Array) -> bool:
        """Whether `empty` gave this very array, in this call."""


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


def is_fresh(array: Array) -> bool:
    """Tell whether `empty` gave this very array in the call that runs, and in memory that the caller will see.

    The placement holds one reference to such an array until the call is over.
    """
    room = here.room
    return room is not None and room.has_made(array)


def copied(array: Array) -> Array:
    """Give a copy of an array, for a result, where results are best written.

    Examples
    --------
    >>> copied(np.arange(3.0))
    array([0., 1., 2.])
    """
    if here.room is None or array.dtype.hasobject:
        return np.array(array)
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy
