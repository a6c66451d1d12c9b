"""NumPy arrays to tensors and back, for any memory layout; who owns which memory is the subject of this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuropod_core.backend import Array
from neuropod_core.errors import InferenceError

__all__ = ["Converter", "copied", "lent", "owned", "texts"]

Converter = Callable[[Array], torch.Tensor | list[str]]
"""What makes of an array what a module takes."""

_SMALL_BYTES = 16384  # Copying less is quicker than arranging an alias.


def lent(array: Array) -> torch.Tensor:
    """Give a tensor over the memory of `array` where torch can have it, else over a copy. Must not be written."""
    if array.dtype.name == "bfloat16":
        return lent(array.view(np.int16)).view(torch.bfloat16)
    if not _is_strided_for_torch(array):
        return copied(array)
    if not array.flags.writeable:
        return copied(array) if array.nbytes <= _SMALL_BYTES else torch.from_numpy(_writeable_alias(array))
    return torch.from_numpy(array)


def copied(array: Array) -> torch.Tensor:
    """Give a tensor that shares nothing with `array`."""
    if array.dtype.name == "bfloat16":
        return copied(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def texts(array: Array) -> list[str]:
    """Give the texts of a one-dimensional array, which is how TorchScript has strings."""
    if array.ndim != 1:
        raise InferenceError(f"TorchScript takes strings of one dimension, got {array.ndim}")
    items: list[str] = array.tolist()
    return items


def owned(value: object, name: str) -> Array:
    """Give what a model returned as an array that belongs to the caller, whatever `value` shares its memory with."""
    if isinstance(value, torch.Tensor):
        return _owned_tensor(value, name)
    if isinstance(value, list) and all(type(item) is str for item in value):
        array = np.empty(len(value), object)
        array[:] = value
        return array
    raise InferenceError(
        f"the model returned {_kind(value)}, no tensor", at=f"outputs.{name}", remedy="return a Tensor or List[str]"
    )


def _owned_tensor(tensor: torch.Tensor, name: str) -> Array:
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        remedy = "call dequantize() on it" if tensor.is_quantized else "call to_dense() on it"
        raise InferenceError(f"the model returned a {kind} tensor, which no array can hold", f"outputs.{name}", remedy)
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return _owned_memory(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
    return _owned_memory(tensor)


def _owned_memory(tensor: torch.Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array.copy("K") if tensor.device.type == "cpu" else array


def _kind(value: object) -> str:
    return f"a list of {type(value[0]).__name__}" if isinstance(value, list) and value else type(value).__name__


def _is_strided_for_torch(array: Array) -> bool:
    return array.flags.aligned and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)


class _Writeable:
    """Says to NumPy that the memory of a read-only array may be written, which the caller of `lent` does not do."""

    def __init__(self, array: Array) -> None:
        address = array.__array_interface__["data"][0]
        self.__array_interface__: dict[str, Any] = {**array.__array_interface__, "data": (address, False)}
        self.owner = array


def _writeable_alias(array: Array) -> Array:
    return np.asarray(_Writeable(array))
