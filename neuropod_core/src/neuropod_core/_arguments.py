"""What callers pass beside tensors: names, seconds, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isnan
from operator import index
from typing import cast

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import OptionError, TensorMismatchError, shown
from neuropod_core.problem import TensorSpec

_LONGEST_TIMEOUT_S = 1e8
"""Three years; the clocks of a system do not reach much further."""


def names_of(outputs: object) -> tuple[str, ...]:
    """Take names of outputs."""
    names = tuple(outputs) if isinstance(outputs, Iterable) and not isinstance(outputs, str) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise TensorMismatchError("outputs", "a sequence of names", shown(outputs), "pass a list of names")
    return cast("tuple[str, ...]", names)


def seconds_of(timeout_s: object) -> float | None:
    """Take seconds to wait; None for as long as it takes."""
    is_number = isinstance(timeout_s, int | float | np.integer | np.floating) and not isinstance(timeout_s, bool)
    if not is_number or isnan(timeout_s) or timeout_s <= 0:  # type: ignore[arg-type, operator]  # a number
        what = f"timeout_s is a number of seconds above 0, not {shown(timeout_s)}"
        raise OptionError(what, at="timeout_s", remedy="leave it out to wait as long as it takes")
    return None if timeout_s > _LONGEST_TIMEOUT_S else float(timeout_s)  # type: ignore[arg-type, operator]  # as before


def lengths_for(spec: TensorSpec, shape: object) -> tuple[int, ...]:
    """Take the shape of an array for an input."""
    try:
        lengths = tuple(map(index, shape))  # type: ignore[call-overload]  # else: a TypeError
    except TypeError:
        raise TensorMismatchError(f"inputs.{spec.name}", spec.notation, f"the shape {shown(shape)}") from None
    fits = len(lengths) == len(spec.shape) and all(
        length >= 0 and (not isinstance(dim, int) or dim == length)
        for dim, length in zip(spec.shape, lengths, strict=True)
    )
    if not fits:
        raise TensorMismatchError(f"inputs.{spec.name}", spec.notation, f"the shape {list(lengths)}")
    return lengths


def zeros_for(specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> Tensors:
    """Give an array of zeros for each spec; what `sizes` does not say of its symbols is 1."""
    unknown = set(sizes).difference(*(spec.symbols for spec in specs))
    if unknown:
        raise OptionError(f"the inputs have no symbols {shown(sorted(map(str, unknown)))}", at="sizes")
    try:
        return {spec.name: _zero(spec, sizes) for spec in specs}
    except (ValueError, TypeError, MemoryError) as error:
        raise OptionError(f"no array has such lengths: {error}", at="sizes") from error


def _zero(spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    shape = tuple(dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in spec.shape)
    return np.full(shape, "", dtype=object) if spec.dtype is DType.STRING else np.zeros(shape, spec.dtype.numpy)
