"""Arrays to try a backend with, and how their results are compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.testing.strategies import reversed_view, strided

# Stored bits of the fraction, and the exponent of the largest power of two (IEEE 754-2019, table 3.5; bfloat16 is the
# upper half of a float32).
_BITS = {
    DType.FLOAT16: (10, 15),
    DType.BFLOAT16: (7, 127),
    DType.FLOAT32: (23, 127),
    DType.FLOAT64: (52, 1023),
}
_SCRIBBLE = 77  # True, as a bool
TEXTS = [
    "",
    "plain",
    "naïve",
    "日本語",
    "🙂",
    "a\0b",
    "x" * 70_000,
    " spaced\n",
    "e\u0301",
    "\ufeffmark",
    "a\r\nb",
    "c\0\0",
]


def numbers(dtype: DType, shape: tuple[int, ...]) -> Array:
    """Make numbers of a type, its extremes among them: what a detour through another type would lose."""
    count = int(np.prod(shape))
    values: Array = np.resize(extremes(dtype), count) if count else np.zeros(0, dtype.numpy)
    return values.reshape(shape)


def extremes(dtype: DType) -> Array:
    """Give the smallest and largest numbers of a type, NaN, infinities, the negative zero, and plain ones."""
    made: Array = np.array([1.5, -0.0, np.inf, -np.inf, np.nan, 0.0, -2.25], np.float32)
    if dtype in _BITS:
        fraction, exponent = _BITS[dtype]
        near, far, least = 1 + 2.0**-fraction, 2.0**exponent, 2.0 ** (1 - exponent - fraction)
        return np.concatenate([made, np.array([near, far, -far, least])]).astype(dtype.numpy)
    if dtype is DType.BOOL:
        made = np.array([True, False, False])
    elif dtype.value.startswith(("int", "uint")):
        bounds = np.iinfo(dtype.numpy)
        made = np.array([1, bounds.max, bounds.min, bounds.max - 1, 0, 7], dtype.numpy)
    return np.asarray(made, dtype.numpy)


def operands(dtype: DType) -> tuple[Array, Array]:
    """Make two arrays whose sum and difference are exact, and need every bit of the type."""
    if dtype in _BITS:
        fraction, exponent = _BITS[dtype]
        step, far = 2.0**-fraction, 2.0 ** (exponent - 1)
        x, y = [1.0, 1 + step, 3.0, far, -far], [step, step, -1.0, far / 2, 1.0 if exponent < fraction else 0.0]
        return np.array([x], dtype.numpy), np.array([y], dtype.numpy)
    bounds = np.iinfo(dtype.numpy)
    middle = bounds.max // 2 + 2
    x, y = [bounds.max - 4, middle, 7, bounds.min + 6], [3, 1, 2, 5]
    return np.array([x], dtype.numpy), np.array([y], dtype.numpy)


def aligned(array: Array) -> Array:
    """Copy to an address that is a multiple of 64: where frameworks are tempted to use the caller's memory."""
    if array.dtype.hasobject:
        return np.array(array)
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copied: Array = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def _read_only(array: Array) -> Array:
    frozen = np.array(array)
    frozen.flags.writeable = False
    return frozen


def _misaligned(array: Array) -> Array:
    if array.dtype.hasobject or not array.nbytes:
        return np.array(array)
    raw = np.empty(array.nbytes + 1, np.uint8)
    copied: Array = raw[1:].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": lambda array: np.array(array, order="F"),
    "strided": strided,
    "reversed": reversed_view,
    "read-only": _read_only,
    "transposed": lambda array: np.ascontiguousarray(array.T).T if array.ndim else array,
    "misaligned": _misaligned,
}


def assert_identical(results: Tensors, expected: Tensors) -> None:
    """Compare to the bit: names, types, shapes, values; NaN with NaN, and -0.0 not with 0.0."""
    assert set(results) == set(expected)
    for name, wanted in expected.items():
        assert results[name].dtype == wanted.dtype, name
        assert results[name].shape == wanted.shape, name
        if wanted.dtype.hasobject:
            assert results[name].tolist() == wanted.tolist(), name
        else:
            assert results[name].tobytes() == wanted.tobytes(), name


def assert_close(results: Tensors, expected: Tensors, rtol: float, atol: float) -> None:
    """Compare with what an author expects, within the tolerance that the author gives."""
    assert set(results) == set(expected)
    for name, wanted in expected.items():
        if wanted.dtype.hasobject:
            assert results[name].tolist() == wanted.tolist(), name
        else:
            np.testing.assert_allclose(results[name], wanted, rtol, atol, err_msg=name)


def copies(tensors: Tensors) -> Tensors:
    """Copy every array."""
    return {name: array.copy() for name, array in tensors.items()}


def scribble(tensors: Tensors) -> None:
    """Overwrite every array with other values."""
    for array in tensors.values():
        array[...] = "scribble" if array.dtype.hasobject else _SCRIBBLE
