"""TensorFlow's own tensors to and from what a session takes and gives, sharing memory where they can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuropod_core import InferenceError, NativeTensors, Tensors
from neuropod_core.backend import Array
from neuropod_core.tensors import as_array

__all__ = ["arrays_of", "tensors_of"]

_SHARED = frozenset(map(np.dtype, [*("f2", "f4", "f8"), *("i1", "i2", "i4", "i8"), *("u1", "u2", "u4", "u8"), "?"]))
_ALIGNMENT = 64  # Of what TensorFlow allocates itself; its kernels end the process where they meet less.


def arrays_of(inputs: NativeTensors) -> Tensors:
    """View tensors of any framework as arrays, those in main memory without a copy.

    Raises
    ------
    InferenceError
        If one cannot be read.
    """
    return {name: value if type(value) is np.ndarray else _array_of(name, value) for name, value in inputs.items()}


def tensors_of(results: Mapping[str, Array]) -> NativeTensors:
    """Give fresh arrays as TensorFlow's tensors, with the same memory where its kernels can read it; text stays."""
    return {name: value if value.dtype.hasobject else _tensor_of(value) for name, value in results.items()}


def _array_of(name: str, value: Any) -> Array:
    array = as_array(value)
    if array is None and type(value).__module__.startswith("tensorflow."):
        return np.asarray(value.numpy())  # Of bfloat16, which NumPy cannot view.
    if array is None:
        what = f"a {type(value).__name__} cannot be read as an array"
        raise InferenceError(what, at=f"inputs.{name}", remedy="bring it to main memory")
    return array


def _tensor_of(array: Array) -> Any:
    import tensorflow as tf

    if array.dtype not in _SHARED:
        with tf.init_scope():  # The caller may be building a function.
            return tf.constant(array)
    if array.ctypes.data % _ALIGNMENT:
        array = _aligned(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _aligned(array: Array) -> Array:
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy: Array = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
