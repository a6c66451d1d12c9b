"""Calls by values of ONNX Runtime: for results that stay on their device, and types that NumPy does not exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuropod_core.dtypes import DType
from neuropod_core.errors import InferenceError, ModelLoadError
from neuropod_onnx._errors import reason
from neuropod_onnx._providers import CPU, cuda_index
from neuropod_onnx._signature import Port, Signature
from neuropod_onnx.tensors import OrtTensor

__all__ = ["NativeCalls", "check_supported", "has_dlpack"]

_BFLOAT16 = 16  # TensorProto.BFLOAT16


def check_supported(signature: Signature) -> bool:
    """Whether NumPy's arrays alone cannot make calls of `signature`: it exchanges bfloat16.

    Raises
    ------
    ModelLoadError
        If the installed ONNX Runtime cannot make them at all.
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


def has_dlpack() -> bool:
    """Whether the installed ONNX Runtime takes tensors by DLPack."""
    import onnxruntime

    return hasattr(onnxruntime.OrtValue, "from_dlpack")


class NativeCalls:
    """Calls of one session through bindings, a new one for each call.

    Parameters
    ----------
    session, run_options
        As `OnnxExecutor` takes them.
    signature
        The tensors; no input is text.
    """

    def __init__(self, session: Any, run_options: Any, signature: Signature) -> None:
        self._session, self._run_options = session, run_options
        self._inputs = {port.node: port for port in signature.inputs}
        self._outputs = {port.node: port for port in signature.outputs}
        index = cuda_index(session)
        self._place: tuple[str, int] = ("cpu", 0) if index is None else ("cuda", index)
        self._waits = list(session.get_providers()) != [CPU]

    def run(self, nodes: Sequence[str], feed: Mapping[str, Any], *, on_host: bool = False) -> list[Any]:
        """Run the model; results are `OrtTensor` on the device of the session (or the CPU), arrays of text, or None."""
        ports = [self._outputs[node] for node in nodes]
        place = ("cpu", 0) if on_host else self._place
        binding = self._session.io_binding()
        # Bound values lend memory of the caller's tensors: both live until the call is over.
        given = [(node, _value(self._inputs[node], tensor)) for node, tensor in feed.items()]
        for node, value in given:
            binding.bind_ortvalue_input(node, value)
        for port in ports:
            binding.bind_output(port.node, *(("cpu", 0) if port.dtype is DType.STRING else place))
        if self._waits:  # Others may still write to what they gave, on streams of their own.
            binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, self._run_options)
        if self._waits:
            binding.synchronize_outputs()
        results = zip(ports, binding.get_outputs(), strict=True)
        return [_taken(port, value) if value.has_value() else None for port, value in results]

    def run_arrays(self, nodes: Sequence[str], feed: Mapping[str, Any], _options: Any = None) -> list[Any]:
        """Run the model; results are arrays, views of memory that nobody else has, or None."""
        results = self.run(nodes, feed, on_host=True)
        return [None if result is None else np.asarray(result) for result in results]


def _value(port: Port, tensor: Any) -> Any:
    """Give a value that lends the memory of an array, or of a tensor of another framework."""
    from onnxruntime import OrtValue

    if type(tensor) is OrtTensor:
        return OrtValue(tensor.value)
    if not isinstance(tensor, np.ndarray):
        tensor = _viewed(tensor)
        if not isinstance(tensor, np.ndarray):
            return _lent(port, tensor)
    whole = np.ascontiguousarray(tensor).reshape(tensor.shape)  # ascontiguousarray gives scalars a dimension.
    if port.dtype is DType.BFLOAT16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(whole.view(np.uint16), _BFLOAT16)
    return OrtValue.ortvalue_from_numpy(whole)


def _viewed(tensor: Any) -> Any:
    try:
        return np.from_dlpack(tensor)
    except Exception:  # noqa: BLE001 - another device, or a type that NumPy lacks: foreign code raises what it likes.
        return tensor


def _lent(port: Port, tensor: Any) -> Any:
    from onnxruntime import OrtValue

    at = f"inputs.{port.name}"
    if not has_dlpack():
        remedy = "run: pip install --upgrade onnxruntime; or pass an array"
        raise InferenceError("this onnxruntime takes no tensors of other frameworks", at=at, remedy=remedy)
    try:
        whole = tensor.contiguous() if hasattr(tensor, "contiguous") else tensor
        value = OrtValue.from_dlpack(whole)
    except Exception as error:
        what = f"ONNX Runtime cannot take the {type(tensor).__name__}: {reason(error)}"
        raise InferenceError(what, at=at, remedy="pass it detached and contiguous, or as an array") from error
    return value


def _taken(port: Port, value: Any) -> Any:
    """Give the result to the caller: what no operator computed is copied, for the session has it too."""
    if port.dtype is DType.STRING:
        return np.array(value.numpy())
    inner = getattr(value, "_ortvalue", value)
    result = OrtTensor(inner, port.dtype.numpy)
    return _copied(result, port.dtype) if port.is_stored else result


def _copied(tensor: OrtTensor, dtype: DType) -> OrtTensor:
    import onnxruntime

    element = _BFLOAT16 if dtype is DType.BFLOAT16 else dtype.numpy.type
    name, _, index = tensor.device.partition(":")
    fresh = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), element, name, int(index or 0))
    copy = OrtTensor(fresh._ortvalue, tensor.dtype)  # noqa: SLF001 - the public class hides what DLPack needs in old releases
    if name == "cpu":
        np.asarray(copy)[...] = np.asarray(tensor)
    else:
        onnxruntime.copy_tensors([onnxruntime.OrtValue(tensor.value)], [fresh])
    return copy
