"""NumPy arrays to and from what a session takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neuropod_core import DType, InferenceError
from neuropod_core.backend import Array, Tensors

__all__ = ["as_array", "as_strings", "change_of", "dtype_of", "first_unencodable", "is_text", "plain"]

_QUANTISED = {
    "qint8": DType.INT8,
    "qint16": DType.INT16,
    "qint32": DType.INT32,
    "quint8": DType.UINT8,
    "quint16": DType.UINT16,
}


def dtype_of(tensor: Any) -> DType | None:
    """Give the element type of a tensor of a graph, of a quantised one that of its bits; None if none of ours."""
    name = tensor.dtype.base_dtype.name
    return _QUANTISED.get(name) or (DType(name) if name in DType._value2member_map_ else None)


def is_text(tensor: Any) -> bool:
    """Tell whether a tensor of a graph holds strings."""
    return bool(tensor.dtype.base_dtype.name == "string")


def plain(tensor: Any) -> Any:
    """Give a tensor of a graph with its bits as plain integers, where it is quantised."""
    from tensorflow import bitcast

    kept = _QUANTISED.get(tensor.dtype.base_dtype.name)
    return tensor if kept is None else bitcast(tensor, kept.value)


def change_of(tensor: Any, *, copies: bool) -> Callable[[Array], Array] | None:
    """Give what must happen to an array before it is fed for `tensor`; None if nothing must."""
    quantised = tensor.dtype.base_dtype.name in _QUANTISED
    if not quantised:
        return np.ndarray.copy if copies and not is_text(tensor) else None
    fed_as = np.dtype(tensor.dtype.base_dtype.as_numpy_dtype)
    return lambda array: (array.copy() if copies else array).view(fed_as)


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
