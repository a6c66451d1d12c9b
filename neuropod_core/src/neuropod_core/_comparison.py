"""Results against what was expected of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.errors import ResultMismatchError
from neuropod_core.tensors import as_text, describe


def compare(results: Mapping[str, Array], expected: Tensors) -> dict[str, float]:
    """Compare by name; give the largest absolute difference of each.

    Text is compared exactly. Numbers are compared by `numpy.allclose` with its defaults, as the original tool does; NaN
    is close to NaN.

    Raises
    ------
    ResultMismatchError
        At the first that is missing, has another shape, or is not close.
    """
    return {name: _difference(f"outputs.{name}", results.get(name), wanted) for name, wanted in expected.items()}


def _difference(path: str, result: Array | None, wanted: Array) -> float:
    if result is None or result.shape != wanted.shape or _is_text(result) != _is_text(wanted):
        raise ResultMismatchError(path, describe(wanted), "nothing" if result is None else describe(result))
    if _is_text(wanted):
        text = as_text(wanted)
        if text is None or not np.array_equal(result, text):
            raise ResultMismatchError(path, f"the text {describe(wanted)}", "other text")
        return 0.0
    with np.errstate(all="ignore"):  # Infinity less infinity, or a difference that no float holds.
        largest = _largest_difference(result, wanted)
        close = np.allclose(_number(result), _number(wanted), equal_nan=True)
    if not close:
        raise ResultMismatchError(path, f"close to {describe(wanted)}", describe(result), largest)
    return largest


def _is_text(array: Array) -> bool:
    return array.dtype.kind in "OUST"


def _number(array: Array) -> Array:
    return array if array.dtype.kind in "fiu" and array.dtype.itemsize > 2 else array.astype(np.float64)  # noqa: PLR2004 - half precision overflows in a difference


def _largest_difference(result: Array, wanted: Array) -> float:
    difference = np.abs(result.astype(np.float64) - wanted.astype(np.float64))
    return float(np.nanmax(difference, initial=0.0))
