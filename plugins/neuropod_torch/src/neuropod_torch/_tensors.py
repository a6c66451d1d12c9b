"""NumPy arrays to tensors and back, for any memory layout; who owns which memory is the subject of this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuropod_core.backend import Array
from neuropod_core.errors import InferenceError

__all__ = [
    "Converter",
    "brain_array",
    "converter",
    "copied",
    "lent",
    "native_tensor",
    "owned",
    "owned_array",
    "owned_result",
    "owned_tensor",
    "storage_uses",
    "texts",
]

Converter = Callable[[Array], torch.Tensor | list[str]]
"""What makes of an array what a module takes."""

storage_uses: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001 - see `is_own`
"""How many tensors refer to a storage; None where this torch does not tell."""

_ALONE = 2  # The tensor, and the storage object that was made to ask.
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


def converter(device: torch.device, *, copies: bool, contiguous: bool = False) -> Callable[[Any], torch.Tensor]:
    """Give the function that makes of an array, or of any tensor with ``__dlpack__``, a tensor on `device`.

    With `copies` it may be written, and nothing of the caller's changes. With `contiguous` its elements lie in the
    order of its dimensions.
    """

    def convert(value: Any) -> torch.Tensor:
        if isinstance(value, np.ndarray):
            array = np.require(value, requirements="C") if contiguous else value
            return copied(array) if copies and device.type == "cpu" else lent(array).to(device)
        given = native_tensor(value)
        there = given.to(device)
        there = there.contiguous() if contiguous else there
        return there.clone() if copies and there is given else there

    return convert


def native_tensor(value: Any) -> torch.Tensor:
    """Give a tensor over the memory of a tensor of any framework."""
    tensor = value if isinstance(value, torch.Tensor) else torch.from_dlpack(value)
    return tensor.detach() if tensor.requires_grad else tensor


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


def owned_array(tensor: torch.Tensor, others: tuple[torch.Tensor, ...] = ()) -> Array:
    """Give the values of a result as the caller's: over its own memory where nothing else refers to that.

    `others` are the inputs of the call and its earlier results.
    """
    if not isinstance(tensor, torch.Tensor) or not is_own(tensor, others):
        return owned(tensor, "")
    if tensor.dtype == torch.bfloat16:
        return brain_array(tensor)
    array: Array = tensor.numpy()
    return array


def brain_array(tensor: torch.Tensor) -> Array:
    """Give a tensor of bfloat16 as an array over its memory."""
    import ml_dtypes

    array: Array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return array


def owned_result(value: object, name: str) -> Any:
    """Give what a model returned as a tensor that belongs to the caller; texts as an array."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else owned(value, name)


def owned_tensor(tensor: torch.Tensor, others: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
    """Give a result as the caller's, where it is: itself where nothing else refers to its memory."""
    if not isinstance(tensor, torch.Tensor):
        raise InferenceError(f"the model returned {_kind(tensor)}, no tensor", remedy="return a Tensor")
    return tensor if is_own(tensor, others) else tensor.detach().clone()


def is_own(tensor: torch.Tensor, others: tuple[torch.Tensor, ...]) -> bool:
    """Tell whether nothing but `tensor` refers to its memory, and no two of its elements share a place.

    An input that is handed back is the same object; a view of anything alive shares a storage.
    """
    if storage_uses is None or tensor.layout != torch.strided or tensor.is_quantized or tensor.requires_grad:
        return False
    alone = tensor._use_count() == 1 and storage_uses(tensor.untyped_storage()._cdata) == _ALONE  # noqa: SLF001 - as above
    return bool(alone and not any(tensor is other for other in others) and is_dense(tensor) and not tensor.is_neg())


def is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether the elements fill their memory in some order of the dimensions: each once."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


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
