"""Results of ONNX Runtime, left where it put them: what ``infer(..., result="native")`` gives."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from neuropod_core.backend import Array

__all__ = ["OrtTensor"]

_CPU = 1  # DLPack's number.


class OrtTensor:
    """A tensor in ONNX Runtime's memory, on the CPU or on a device.

    Any framework takes it over without a copy, ``torch.from_dlpack(tensor)``; on the CPU, ``numpy.asarray(tensor)``
    views it. It lives as long as somebody looks at it, longer than the model if need be; the results of one call are
    freed together.

    Attributes
    ----------
    value
        The value of ONNX Runtime's own extension module, for code that binds it to another session.
    dtype
        The element type, as NumPy (or `ml_dtypes`, for bfloat16) calls it.
    shape
        The lengths.
    """

    __slots__ = ("__weakref__", "dtype", "shape", "value")

    def __init__(self, value: Any, dtype: np.dtype[Any]) -> None:
        self.value, self.dtype = value, dtype
        self.shape: tuple[int, ...] = tuple(value.shape())

    @property
    def device(self) -> str:
        """Where it lies: ``cpu``, ``cuda:0``."""
        name = str(self.value.device_name()).lower()
        return name if name == "cpu" else f"{name}:{self.__dlpack_device__()[1]}"

    def __dlpack_device__(self) -> tuple[int, int]:
        if str(self.value.device_name()).lower() == "cpu":
            return _CPU, 0
        kind, index = self.value.__dlpack_device__()
        return int(kind), int(index)

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        """Lend the memory; what was computed is there, so no stream needs to wait.

        Raises
        ------
        BufferError
            If the installed ONNX Runtime cannot lend it. A bool on a device goes by uint8 there.
        """
        if self.dtype.kind != "V" and self.__dlpack_device__()[0] == _CPU:
            return self._view().__dlpack__(stream=stream, **options)
        if not hasattr(self.value, "__dlpack__"):
            raise BufferError("this onnxruntime has no DLPack for such a tensor: upgrade it")
        return self.value.__dlpack__()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001 - NumPy's protocol
        if self.__dlpack_device__()[0] != _CPU:
            raise TypeError(f"the tensor lies on {self.device}, where NumPy cannot look")
        view = self._view()
        wanted = view.dtype if dtype is None else np.dtype(dtype)
        if copy is False and wanted != view.dtype:
            raise ValueError(f"a view of {view.dtype} as {wanted} needs a copy")
        return view.astype(wanted, copy=bool(copy))

    def __repr__(self) -> str:
        return f"<OrtTensor {self.dtype.name}{list(self.shape)} on {self.device}>"

    def _view(self) -> Array:
        count = int(np.prod(self.shape, dtype=np.int64))
        if not count:
            return np.empty(self.shape, self.dtype)
        memory: Any = (ctypes.c_ubyte * (count * self.dtype.itemsize)).from_address(self.value.data_ptr())
        memory.owner = self.value  # The innermost buffer keeps it, whatever NumPy makes of views.
        view: Array = np.frombuffer(memory, self.dtype).reshape(self.shape)
        return view
