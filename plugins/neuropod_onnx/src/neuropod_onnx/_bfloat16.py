"""Calls of models that take or give bfloat16, which ONNX Runtime does not exchange with NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelLoadError
from neuropod_onnx._signature import Signature

__all__ = ["check_supported", "run"]

_NUMBER = 16  # TensorProto.BFLOAT16


def check_supported(signature: Signature) -> bool:
    """Whether calls of `signature` need this module.

    Raises
    ------
    ModelLoadError
        If the installed ONNX Runtime cannot make them.
    """
    inputs, outputs = ({port.dtype for port in side} for side in (signature.inputs, signature.outputs))
    if DType.BFLOAT16 not in inputs | outputs:
        return False
    import onnxruntime

    if not hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        what = f"onnxruntime {onnxruntime.__version__} takes no bfloat16 tensors"
        raise ModelLoadError(what, remedy="run: pip install --upgrade onnxruntime")
    if DType.STRING in inputs:
        what = "ONNX Runtime has no call that takes text and exchanges bfloat16"
        raise ModelLoadError(what, remedy="let the model take float32 and cast inside")
    return True


def run(session: Any, nodes: Sequence[str], feed: Tensors, run_options: Any) -> list[Array]:
    """Run `session` on arrays of any type; the results are copies."""
    binding = session.io_binding()
    for node, array in feed.items():
        binding.bind_ortvalue_input(node, _value(array))
    for node in nodes:
        binding.bind_output(node)
    session.run_with_iobinding(binding, run_options)
    return [_array(value) for value in binding.get_outputs()]


def _value(array: Array) -> Any:
    from onnxruntime import OrtValue

    whole = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray gives scalars a dimension.
    if whole.dtype == DType.BFLOAT16.numpy:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(whole.view(np.uint16), _NUMBER)
    return OrtValue.ortvalue_from_numpy(whole)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return np.array(value.numpy())
    shape = value.shape()
    count = int(np.prod(shape, dtype=np.int64))
    words = (ctypes.c_uint16 * count).from_address(value.data_ptr()) if count else ()
    array: Array = np.array(words, np.uint16).view(DType.BFLOAT16.numpy).reshape(shape)
    return array
