"""NumPy arrays to and from what a session takes and gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from neuropod_core import DType, InferenceError
from neuropod_core.backend import Array, Tensors

__all__ = ["as_array", "as_strings", "dtype_of", "first_unencodable"]


def dtype_of(tensor: Any) -> DType | None:
    """Give the element type of a tensor of a graph; None if it is none of ours."""
    name = tensor.dtype.base_dtype.name
    return DType(name) if name in DType._value2member_map_ else None


def as_array(value: Any) -> Array:
    """Make an array of what a session gives, for a scalar no array; `bytes` keep their trailing NULs."""
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value, dtype=object if isinstance(value, bytes) else None)


def as_strings(name: str, value: Any) -> Array:
    """Decode what a session gives for text, `bytes` or an array of them, to an array of `str`.

    Raises
    ------
    InferenceError
        If one of them is no UTF-8.
    """
    encoded = as_array(value)
    decoded = np.empty(encoded.shape, dtype=object)
    try:
        decoded.reshape(-1)[:] = [value.decode() for value in encoded.reshape(-1)]
    except UnicodeDecodeError as error:
        what = f"the model gave bytes that are no UTF-8 text ({error.reason} at byte {error.start})"
        raise InferenceError(what, at=f"outputs.{name}") from error
    return decoded


def first_unencodable(inputs: Tensors) -> str | None:
    """Name the first input with a text that has no UTF-8 form, such as one half of a surrogate pair."""
    for name, array in inputs.items():
        if array.dtype == object and not all(map(_is_encodable, array.reshape(-1))):
            return name
    return None


def _is_encodable(value: object) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True
