"""From whatever a caller holds to the NumPy arrays that executors get, without a copy where there is a way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast

import numpy as np

from neuropod_core._native import native_dtype
from neuropod_core.backend import Array
from neuropod_core.dtypes import DType

__all__ = ["SupportsDLPack", "all_text", "as_array", "as_text", "describe", "dtype_of", "object_array", "why_no_array"]

_BFLOAT16_MODULE = "ml_dtypes"
_TEXT = {str}
_NOT_LENT = (None, DType.STRING)  # Element types outside of the closed set, and text, which DLPack does not know.


class SupportsDLPack(Protocol):
    """Anything that lends its memory by the array API's ``__dlpack__``: a torch tensor fits without knowing us."""

    def __dlpack__(self) -> object:
        """Lend the memory as a capsule."""


def as_array(value: object) -> Array | None:
    """View `value` as a NumPy array, or give None if it is nothing that holds a tensor.

    Taken without a copy: arrays, NumPy scalars, what has ``__dlpack__`` or the array interface, and buffers. A masked
    array is refused, for its mask would be lost. Lists and Python numbers are refused: they have no element type.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray | np.generic):  # Among them texts and bytes of NumPy, which are Python's too.
        return None if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(cast("SupportsDLPack", value))
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__") or isinstance(value, memoryview):
        return _plain(value)
    return None


def why_no_array(value: object) -> str:
    """Say in the words of its own framework why `value` gives no array; empty where it says nothing."""
    if not hasattr(value, "__array__"):
        return ""
    try:
        np.asarray(value)
    except Exception as error:  # noqa: BLE001 - `__array__` is foreign code.
        return str(error)
    return ""


def as_text(array: Array) -> Array | None:
    """Give an array of strings in the canonical form, objects of type `str`; None if it holds anything else.

    Fixed-width text and ``StringDType`` are converted, bytes are decoded as UTF-8; canonical arrays come back as they
    are, others as a copy.
    """
    if array.dtype.kind not in "OUST":
        return None
    objects = array.astype(object, copy=False)  # What marks a missing value in `StringDType` comes along.
    return objects if all_text(objects) else _decoded(objects)


def all_text(array: Array) -> bool:
    """Tell whether an array of objects holds nothing but `str` that can be written as UTF-8."""
    items = array.ravel().tolist()
    if not set(map(type, items)) <= _TEXT:
        return False
    try:
        "".join(items).encode()
    except UnicodeEncodeError:
        return False
    return True


def dtype_of(array: Array) -> DType | None:
    """Name the element type of an array; None outside of the closed set."""
    if array.dtype.kind in "OUST":
        return DType.STRING
    name = array.dtype.name
    return DType(name) if name in DType.__members__.values() else None


def describe(value: object) -> str:
    """Say what a value is in the notation of specs: ``float32[2, 3]``, or the name of its type."""
    if isinstance(value, np.ndarray | np.generic):
        text = value.dtype.kind in "UST" or (
            isinstance(value, np.ndarray) and value.dtype.kind == "O" and all_text(value)
        )
        name = "string" if text else value.dtype.name
        masked = "masked " if isinstance(value, np.ma.MaskedArray) else ""
        swapped = "" if text or value.dtype.isnative else "byte-swapped "
        return f"{masked}{swapped}{name}[{', '.join(map(str, value.shape))}]"
    return type(value).__name__


def _from_dlpack(value: SupportsDLPack) -> Array | None:
    if hasattr(value, "dtype") and native_dtype(value) in _NOT_LENT:  # TensorFlow ends the process when asked for text.
        return _plain(value) if hasattr(value, "__array__") else None
    try:
        return np.from_dlpack(cast("Any", value))
    except Exception:  # noqa: BLE001 - another device, a type that NumPy lacks, or whatever foreign code raises.
        return _plain(value) if hasattr(value, "__array__") else None


def _plain(value: object) -> Array | None:
    array: Array | None
    try:
        array = np.asarray(value)
    except Exception:  # noqa: BLE001 - `__array__` is foreign code: whatever it raises means that there is no array.
        array = _of_scalar(value)
    if array is None:
        return None
    return array if array.dtype.kind != "V" or array.dtype.type.__module__ == _BFLOAT16_MODULE else None


def _of_scalar(value: Any) -> Array | None:
    """View what ``__array__`` of TensorFlow gives for a tensor without dimensions: a scalar, which NumPy refuses."""
    try:
        scalar = value.__array__()
    except Exception:  # noqa: BLE001 - as above
        return None
    return np.asarray(scalar) if isinstance(scalar, np.generic) else None


def _decoded(array: Array) -> Array | None:
    try:
        items = [_text(item) for item in array.ravel().tolist()]
    except (TypeError, UnicodeError):
        return None
    return object_array(items, array.shape)


def _text(item: object) -> str:
    if isinstance(item, bytes):
        return item.decode()
    if not isinstance(item, str):
        raise TypeError(item)
    item.encode()
    return str.__str__(item)  # A member of an enumeration has a `str` of its own.


def object_array(items: Iterable[object], shape: tuple[int, ...]) -> Array:
    """Build an array of objects; `np.array` would look into the items for further dimensions."""
    listed = list(items)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array.reshape(shape)
