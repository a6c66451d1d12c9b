"""Arrays out of bytes that somebody else wrote: each size is checked against the bytes that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from neuropod_core.backend import Array
from neuropod_core.dtypes import DType
from neuropod_core.errors import shown

__all__ = ["MOST_DIMENSIONS", "MalformedError", "Raw", "checked_shape", "element_count", "numbers", "texts"]

MOST_DIMENSIONS = 32
"""Dimensions of an array that is read; NumPy 1 knows no more."""

_LARGEST_ARRAY = 2**62
_POINTER_BYTES = 8

Raw = bytes | bytearray | memoryview
"""Bytes of elements, end to end."""


class MalformedError(ValueError):
    """Bytes that are not what they claim; each reader turns it into a `PackageFormatError` that says where."""


def checked_shape(shape: object) -> tuple[int, ...]:
    """Give `shape` as a tuple of lengths of 0 and more, or say what is wrong with it."""
    if not isinstance(shape, list | tuple):
        raise MalformedError(f"a shape is a list of lengths, not a {type(shape).__name__}")
    if len(shape) > MOST_DIMENSIONS:
        raise MalformedError(f"a shape has at most {MOST_DIMENSIONS} dimensions, not {len(shape)}")
    for length in shape:
        if type(length) is not int:
            raise MalformedError(f"a length in a shape is an int, not a {type(length).__name__}")
        if not 0 <= length < _LARGEST_ARRAY:
            raise MalformedError(f"a length in a shape is at least 0 and below 2**62, not {shown(length)}")
    return tuple(shape)


def element_count(shape: tuple[int, ...], itemsize: int) -> int:
    """Count the elements of a checked `shape`.

    The product of the lengths without the zeros must be addressable too: NumPy asks that even of empty arrays.
    """
    addressed = math.prod(length or 1 for length in shape)
    if addressed * max(itemsize, _POINTER_BYTES) >= _LARGEST_ARRAY:
        raise MalformedError(f"no machine can address shape {shown(list(shape))}")
    return math.prod(shape)


def numbers(
    raw: Raw, dtype: DType, shape: tuple[int, ...], *, fortran: bool = False, big_endian: bool = False
) -> Array:
    """Copy the bytes of numbers or bools into a new array in native byte order."""
    count = element_count(shape, dtype.itemsize)
    if count * dtype.itemsize != len(raw):
        raise MalformedError(f"{dtype}{list(shape)} takes {count * dtype.itemsize} bytes, {len(raw)} are there")
    bits = np.frombuffer(raw, f"{'>' if big_endian else '<'}u{dtype.itemsize}")
    if dtype is DType.BOOL and count and bits.max() > 1:
        raise MalformedError(f"a bool is a byte of 0 or 1, not {bits.max()}")
    array = np.empty(shape, dtype.numpy, order="F" if fortran else "C")
    array.ravel("K").view(f"u{dtype.itemsize}")[:] = bits
    return array


def texts(items: Sequence[str], shape: tuple[int, ...], *, fortran: bool = False) -> Array:
    """Put texts into a new array of objects."""
    count = element_count(shape, _POINTER_BYTES)
    if count != len(items):
        raise MalformedError(f"string{list(shape)} takes {count} texts, {len(items)} are there")
    array = np.empty(shape, object, order="F" if fortran else "C")
    array.ravel("K")[:] = items
    return array
