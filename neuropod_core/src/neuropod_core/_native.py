"""Tensors of frameworks, as their attributes describe them: nothing here reads their elements."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from neuropod_core.dtypes import DType

__all__ = ["KNOWN", "describe_native", "is_beyond_numpy", "is_native", "is_on_device", "native_dtype", "native_shape"]

KNOWN: dict[type, dict[object, DType]] = {}
"""Class of tensors -> its element types as met so far -> their names here; for checks that must be quick."""

_SEEN_BY_NUMPY = (1, 3, 11, 13)  # DLPack's numbers of the CPU, and of CUDA's and ROCm's memory that the CPU reads too.
_BY_NAME: Mapping[str, DType] = {dtype.value: dtype for dtype in DType}


def is_native(value: object) -> bool:
    """Tell whether `value` is a tensor of a framework: it lends its memory by DLPack, and is not NumPy's."""
    kind = type(value)
    if kind in KNOWN:
        return True
    return hasattr(kind, "__dlpack__") and hasattr(value, "shape") and not isinstance(value, np.ndarray | np.generic)


def is_beyond_numpy(value: object) -> bool:
    """Tell whether NumPy cannot view a tensor that others can: it lies on a device, or is of a type NumPy lacks.

    Tensors that lend their memory to nobody, such as sparse ones, are not: they say so when they are asked where it is.
    """
    if not is_native(value):
        return False
    kind = _device_kind(value)
    if kind in _SEEN_BY_NUMPY:
        return native_dtype(value) is DType.BFLOAT16
    return kind is not None


def is_on_device(value: object) -> bool:
    """Tell whether a tensor lies in memory that NumPy cannot look into."""
    return is_native(value) and _device_kind(value) not in (None, *_SEEN_BY_NUMPY)


def _device_kind(value: Any) -> int | None:
    try:
        kind, _ = value.__dlpack_device__()
        return int(kind)
    except Exception:  # noqa: BLE001 - foreign code
        return None


def native_dtype(value: Any) -> DType | None:
    """Name the element type of a framework's tensor; None outside of the closed set.

    ``torch.float32``, TensorFlow's ``float32``, NumPy's and that of JAX all end in the name that packages write.
    """
    try:
        dtype = value.dtype
        name = getattr(dtype, "name", None)
        found = _BY_NAME.get((name if isinstance(name, str) else str(dtype)).rpartition(".")[2])
    except Exception:  # noqa: BLE001 - foreign code
        return None
    if found is not None:
        with suppress(TypeError):  # Where element types cannot be looked up, they are asked for their names each time.
            KNOWN.setdefault(type(value), {})[dtype] = found
    return found


def native_shape(value: Any) -> tuple[int, ...] | None:
    """Give the lengths of a framework's tensor; None if it does not say."""
    try:
        return tuple(map(int, value.shape))
    except Exception:  # noqa: BLE001 - foreign code
        return None


def describe_native(value: Any) -> str:
    """Say what a framework's tensor is: ``Tensor float32[2, 3] on cuda:0``."""
    dtype, shape = native_dtype(value), native_shape(value)
    if shape is None:
        return type(value).__name__
    where = f" on {value.device}" if is_on_device(value) and hasattr(value, "device") else ""
    element = dtype or str(getattr(value, "dtype", "?"))[:40]
    return f"{type(value).__name__} {element}[{', '.join(map(str, shape))}]{where}"
