"""From nested lists of plain values to arrays of the type that a spec says, where no other reading is possible.

=================== ==================================================================================================
float types         floats, rounded to the nearest; ints that the type holds exactly; no number beyond the range
int and uint types  ints within the range; not ``1.0``
bool                bools
string              texts
=================== ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from neuropod_core.backend import Array
from neuropod_core.dtypes import DType
from neuropod_core.errors import TensorMismatchError
from neuropod_core.problem import TensorSpec
from neuropod_core.tensors import object_array

__all__ = ["MOST_DIMENSIONS", "Dialect", "converted", "flattened", "path_of"]

MOST_DIMENSIONS = 32
"""Levels of lists that are taken apart; NumPy 1 knows no more dimensions."""

_LONGEST_FLOAT_BITS = 1024
_SIGNIFICANT_BITS = {DType.BFLOAT16: 8, DType.FLOAT16: 11, DType.FLOAT32: 24, DType.FLOAT64: 53}


@dataclass(frozen=True)
class Dialect:
    """How the source of lists writes its values.

    Parameters
    ----------
    named
        Shows a value in a message.
    bools
        What its bools are called.
    constants
        Texts that stand for NaN and the infinities; without any, floats may be those.
    exact
        Whether ints that a float type does not hold exactly are refused; else they are rounded.
    """

    named: Callable[[object], str]
    bools: str = "True or False"
    constants: tuple[str, ...] = ()
    exact: bool = True


def flattened(
    value: object, path: str, dialect: Dialect, most: int = MOST_DIMENSIONS
) -> tuple[list[Any], tuple[int, ...]]:
    """Take nested lists apart, at most `most` levels; give the items and the shape.

    Raises
    ------
    TensorMismatchError
        If lists of one level differ in length, or there are more levels.
    """
    level, shape = [value], ()  # type: tuple[list[Any], tuple[int, ...]]
    while level and isinstance(level[0], list | tuple):
        if len(shape) >= most:
            raise TensorMismatchError(path, f"at most {most} levels of lists", "more")
        length = len(level[0])
        for place, item in enumerate(level):
            if not isinstance(item, list | tuple) or len(item) != length:
                got = f"a list of {len(item)}" if isinstance(item, list | tuple) else dialect.named(item)
                raise TensorMismatchError(path_of(path, place, shape), f"a list of {length} like the one before", got)
        level, shape = [part for item in level for part in item], (*shape, length)
    return level, shape


def converted(
    items: list[Any], shape: tuple[int, ...], spec: TensorSpec, dialect: Dialect, path: str | None = None
) -> Array:
    """Make an array of flattened items; `path` is where they come from, ``inputs.NAME`` unless it is given.

    Raises
    ------
    TensorMismatchError
        At the first item that the type does not hold, or that cannot be meant.
    """
    given = _Items(items, shape, spec, dialect, path or f"inputs.{spec.name}")
    return _CONVERTERS[spec.dtype](given).reshape(shape)


def path_of(path: str, place: int, shape: tuple[int, ...]) -> str:
    """Name an item of a level by its indices: ``inputs.x[1][2]``."""
    return path + "".join(f"[{index}]" for index in np.unravel_index(place, shape)) if shape else path


@dataclass(frozen=True)
class _Items:
    items: list[Any]
    shape: tuple[int, ...]
    spec: TensorSpec
    dialect: Dialect
    path: str

    def refuse(self, place: int, expected: str, remedy: str = "") -> NoReturn:
        at = path_of(self.path, place, self.shape)
        raise TensorMismatchError(
            at, f"{expected} ({self.spec.notation})", self.dialect.named(self.items[place]), remedy
        )

    def check(self, kind: type, expected: str) -> None:
        if not set(map(type, self.items)) <= {kind}:
            self.refuse(next(place for place, item in enumerate(self.items) if type(item) is not kind), expected)


def _floats(given: _Items) -> Array:
    if not set(map(type, given.items)) <= {float}:
        for place, item in enumerate(given.items):
            if type(item) is not float:
                _check_float(given, place, item)
    wide = np.array([float(item) for item in given.items], np.float64)
    with np.errstate(over="ignore"):
        array: Array = wide.astype(given.spec.dtype.numpy)
    if not np.isfinite(array).all():
        _check_range(given, array)
    return array


def _check_float(given: _Items, place: int, item: object) -> None:
    dtype = given.spec.dtype
    if isinstance(item, str) and given.dialect.constants:
        if item not in given.dialect.constants:
            given.refuse(place, f"a number, or one of {', '.join(map(repr, given.dialect.constants))}")
    elif type(item) is not int:
        given.refuse(place, "a number")
    elif item.bit_length() > _LONGEST_FLOAT_BITS:
        given.refuse(place, f"a number in the range of {dtype}")
    elif given.dialect.exact and (item // (item & -item or 1)).bit_length() > _SIGNIFICANT_BITS[dtype]:
        given.refuse(place, f"an int that {dtype} holds exactly", f"write {item}.0 to have it rounded")


def _check_range(given: _Items, array: Array) -> None:
    for place in np.flatnonzero(~np.isfinite(array)).tolist():
        item = given.items[place]
        if not isinstance(item, str) and (given.dialect.constants or np.isfinite(float(item))):
            given.refuse(place, f"a number in the range of {given.spec.dtype}")


def _ints(given: _Items) -> Array:
    bounds = np.iinfo(given.spec.dtype.numpy)
    least, most = int(bounds.min), int(bounds.max)
    expected = f"an int from {least} to {most}"
    given.check(int, expected)
    if given.items and (min(given.items) < least or max(given.items) > most):
        given.refuse(next(place for place, item in enumerate(given.items) if not least <= item <= most), expected)
    return np.array(given.items, given.spec.dtype.numpy)


def _bools(given: _Items) -> Array:
    given.check(bool, given.dialect.bools)
    return np.array(given.items, np.bool_)


def _texts(given: _Items) -> Array:
    given.check(str, "a text")
    return object_array(given.items, (len(given.items),))


_CONVERTERS: Mapping[DType, Callable[[_Items], Array]] = {
    **dict.fromkeys(DType, _ints),
    **dict.fromkeys(_SIGNIFICANT_BITS, _floats),
    DType.BOOL: _bools,
    DType.STRING: _texts,
}
