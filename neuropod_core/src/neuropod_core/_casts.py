"""What a caller asks for by ``cast``: arrays of another element type, and plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from neuropod_core._lists import Dialect, converted, flattened, path_of
from neuropod_core.backend import Array
from neuropod_core.dtypes import DType
from neuropod_core.errors import OptionError, TensorMismatchError, shown
from neuropod_core.problem import Problem, TensorSpec
from neuropod_core.tensors import as_text, describe

__all__ = ["Cast", "Casts", "cast_array", "cast_plain", "rules"]

Cast = Literal["no", "safe", "same_kind"]
"""Whether a wrong element type is converted: never, where `numpy.can_cast` calls it safe, or within a kind.

A value that would be lost is an error in any case: under ``safe``, an int that a float type does not hold exactly;
under ``same_kind``, a number beyond the range, while digits of a fraction may be rounded.
"""

Casts = Cast | Mapping[str, Cast]
"""One rule for all inputs, or a rule by name for those that are named, and ``no`` for the others."""

_RULES = ("no", "safe", "same_kind")
_PLAIN = (list, tuple, bool, int, float, str)


def rules(problem: Problem, casts: object) -> dict[str, Cast]:
    """Give the rule of each input.

    Raises
    ------
    OptionError
        If a rule is none of the three, or the problem has no such input.
    """
    names = [spec.name for spec in problem.inputs]
    if not isinstance(casts, Mapping):
        return dict.fromkeys(names, _rule(casts, "cast"))
    for name in casts:
        if name not in names:
            there = ", ".join(names) or "none"
            raise OptionError(f"cast names {shown(name)}, which is no input (there are {there})", "cast")
    return {name: _rule(casts.get(name, "no"), f"cast[{name!r}]") for name in names}


def _rule(given: object, at: str) -> Cast:
    for rule in _RULES:
        if given == rule:
            return rule  # type: ignore[return-value]  # one of the three
    raise OptionError(f"cast is one of {', '.join(map(repr, _RULES))}, not {shown(given)}", "" if at == "cast" else at)


# -- arrays -----------------------------------------------------------------------------------------------------------


def cast_array(array: Array, spec: TensorSpec, rule: Cast) -> Array | None:
    """Convert an array of numbers to the type of its spec; None where the rule does not say so.

    Raises
    ------
    TensorMismatchError
        If the rule says so, and a value would be lost.
    """
    wanted = spec.dtype.numpy
    if rule == "no" or not np.can_cast(array.dtype, wanted, rule):
        return None
    with np.errstate(all="ignore"):
        made: Array = array.astype(wanted)
        lost = _lost(array, made, exact=rule == "safe")
    if lost is not None and lost.any():
        place = int(np.flatnonzero(lost)[0])
        at = path_of(f"inputs.{spec.name}", place, array.shape)
        expected = f"a value that {spec.dtype} holds{' exactly' if rule == 'safe' else ''} ({spec.notation})"
        got = f"{array.ravel()[place]} in {describe(array)}"
        raise TensorMismatchError(at, expected, got, f"convert it by .astype({spec.dtype.value!r}), if it may be lost")
    return made


def _lost(array: Array, made: Array, *, exact: bool) -> Array | None:
    """Mark the values that a conversion allowed by the rule has lost all the same; None where it can lose none."""
    if array.dtype.kind == "b":
        return None
    if array.dtype.kind not in "iu":
        beyond: Array = np.isinf(made) & ~np.isinf(array)
        return beyond
    if made.dtype.kind in "iu":
        wrapped: Array = (made.astype(array.dtype) != array) | ((made < 0) != (array < 0))
        return wrapped
    if not exact:
        return np.isinf(made)
    if array.dtype.itemsize < made.dtype.itemsize:
        return None
    # The largest int may be rounded up to a float that is none any more, of which machines make different ints.
    bits = 8 * array.dtype.itemsize - (array.dtype.kind == "i")
    rounded: Array = (made >= made.dtype.type(2.0**bits)) | (made.astype(array.dtype) != array)
    return rounded


# -- plain values -----------------------------------------------------------------------------------------------------


def cast_plain(value: object, spec: TensorSpec, rule: Cast) -> Array | None:
    """Make an array of nested lists or of a plain value; None where the rule, or the value, is not of that kind.

    Lists of arrays are stacked.

    Raises
    ------
    TensorMismatchError
        If it has other dimensions, differs in length, or holds what the type does not.
    """
    if rule == "no" or not isinstance(value, _PLAIN):
        return None
    path, dialect = f"inputs.{spec.name}", _SAFE if rule == "safe" else _SAME_KIND
    items, shape = flattened(value, path, dialect, most=len(spec.shape))
    if items and isinstance(items[0], np.ndarray | np.generic):
        return _stacked(items, shape, spec, rule)
    if not items:
        shape = _completed(shape, spec)
    if len(shape) != len(spec.shape):
        got = f"{len(shape)} levels" if shape else dialect.named(value)
        raise TensorMismatchError(path, f"{spec.notation} ({len(spec.shape)} levels of lists)", got)
    return converted(items, shape, spec, dialect)


def _completed(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    rest = tuple(dim for dim in spec.shape[len(shape) :] if isinstance(dim, int))
    if len(shape) + len(rest) < len(spec.shape):
        got, remedy = "an empty list, which does not say its other lengths", "pass an array, such as np.empty"
        raise TensorMismatchError(f"inputs.{spec.name}", spec.notation, got, remedy)
    return shape + rest


def _stacked(items: list[Any], shape: tuple[int, ...], spec: TensorSpec, rule: Cast) -> Array:
    path, first = f"inputs.{spec.name}", items[0]
    for place, item in enumerate(items):
        alike = isinstance(item, np.ndarray | np.generic) and (item.dtype, item.shape) == (first.dtype, first.shape)
        if not alike or isinstance(item, np.ma.MaskedArray):
            raise TensorMismatchError(path_of(path, place, shape), f"{describe(first)} like the first", describe(item))
    array: Array = np.stack(items).reshape(*shape, *first.shape)
    if spec.dtype is DType.STRING:
        made = as_text(array)
    else:
        made = array.astype(spec.dtype.numpy) if array.dtype == spec.dtype.numpy else cast_array(array, spec, rule)
    if made is None:
        raise TensorMismatchError(path, spec.notation, f"a list of {describe(first)}", "convert them first")
    return made


_SAFE = Dialect(named=shown)
_SAME_KIND = Dialect(named=shown, exact=False)
