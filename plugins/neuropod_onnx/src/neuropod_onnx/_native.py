"""Calls by values of ONNX Runtime: for results that stay on their device, and types that NumPy does not exchange."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from neuropod_core.dtypes import DType
from neuropod_core.errors import InferenceError, ModelLoadError
from neuropod_onnx._compiled import Infer, compile_native
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
    """Calls of one session by values; on the CPU without a binding, unless it is to be `bound`.

    Parameters
    ----------
    session, run_options
        As `OnnxExecutor` takes them.
    signature
        The tensors; no input is text.
    bound
        Whether to bind values where that is not needed; bindings alone leave results on a device.
    """

    def __init__(self, session: Any, run_options: Any, signature: Signature, *, bound: bool = False) -> None:
        self._session, self._run_options = session, run_options
        self._inputs = {port.node: port for port in signature.inputs}
        self._outputs = {port.node: port for port in signature.outputs}
        index = cuda_index(session)
        self._place: tuple[str, int] = ("cpu", 0) if index is None else ("cuda", index)
        on_cpu = list(session.get_providers()) == [CPU]
        self._waits = not on_cpu
        # The public method looks at every value, and a public binding at every step: 20 us a call.
        inner = getattr(session, "_sess", None)
        self._plain = getattr(inner, "run_with_ort_values", None) if on_cpu and not bound else None

    def run(self, nodes: list[str], feed: Mapping[str, Any], *, on_host: bool = False) -> list[Any]:
        """Run the model; results are `OrtTensor` on the device of the session (or the CPU), arrays of text, or None."""
        # A value made of an array lends its memory and does not keep it: the arrays live until the call is over.
        lenders = [_lender(self._inputs[node], tensor) for node, tensor in feed.items()]
        values = {node: _value(self._inputs[node], lender) for node, lender in zip(feed, lenders, strict=True)}
        if self._plain is not None:
            results = self._plain(values, nodes, self._run_options)
        else:
            results = self._run_bound(nodes, values, ("cpu", 0) if on_host else self._place)
        # By number: an iterator over them costs 24 us.
        return [_taken(self._outputs[node], results[place]) for place, node in enumerate(nodes)]

    def run_arrays(self, nodes: list[str], feed: Mapping[str, Any], _options: Any = None) -> list[Any]:
        """Run the model; results are arrays, views of memory that nobody else has, or None."""
        results = self.run(nodes, feed, on_host=True)
        return [None if result is None else np.asarray(result) for result in results]

    def compiled(self, signature: Signature, slow: Infer, failed: Any) -> tuple[Infer, dict[str, Any]] | None:
        """Give straight-line code for the calls that it can make, and its globals; None where it can make none."""
        ports = (*signature.inputs, *signature.outputs)
        others = any(port.dtype in (DType.STRING, DType.BFLOAT16) for port in ports)
        kept = any(port.is_stored or port.may_be_nothing for port in signature.outputs)
        if self._plain is None or others or kept or not signature.outputs:
            return None
        value, place = _from_numpy()
        names = {"slow": slow, "value": value, "place": place, "result": OrtTensor, "run": self._plain}
        names |= {"options": self._run_options, "failed": failed}
        return compile_native(signature, names), names

    def _run_bound(self, nodes: list[str], values: Mapping[str, Any], place: tuple[str, int]) -> list[Any]:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for node, value in values.items():
            binding.bind_ortvalue_input(node, OrtValue(value))
        for node in nodes:
            binding.bind_output(node, *(("cpu", 0) if self._outputs[node].dtype is DType.STRING else place))
        if self._waits:  # Others may still write to what they gave, on streams of their own.
            binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, self._run_options)
        if self._waits:
            binding.synchronize_outputs()
        return [value._ortvalue for value in binding.get_outputs()]  # noqa: SLF001 - see `OrtTensor.value`


def _lender(port: Port, tensor: Any) -> Any:
    """Give an array without gaps that lends its memory, or a value of ONNX Runtime."""
    if type(tensor) is OrtTensor:
        return tensor.value
    array = tensor if isinstance(tensor, np.ndarray) else _viewed(tensor)
    if not isinstance(array, np.ndarray):
        return _lent(port, array)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array.view(np.uint16) if port.dtype is DType.BFLOAT16 else array


def _value(port: Port, lender: Any) -> Any:
    if not isinstance(lender, np.ndarray):
        return lender
    if port.dtype is DType.BFLOAT16:
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy_with_onnx_type(lender, _BFLOAT16)._ortvalue  # noqa: SLF001
    from_numpy, cpu = _from_numpy()
    return from_numpy(lender, cpu)


@lru_cache(maxsize=1)
def _from_numpy() -> tuple[Any, Any]:
    """Give what makes a value of an array, and its last argument."""
    from onnxruntime import OrtDevice, OrtValue

    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import OrtValue as Inner

        return Inner.ortvalue_from_numpy, OrtDevice.make("cpu", 0)._get_c_device()  # noqa: SLF001
    except (ImportError, AttributeError):
        return (lambda array, _: OrtValue.ortvalue_from_numpy(array)._ortvalue), None  # noqa: SLF001


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
        value = OrtValue.from_dlpack(whole)._ortvalue  # noqa: SLF001 - see `OrtTensor.value`
    except Exception as error:
        what = f"ONNX Runtime cannot take the {type(tensor).__name__}: {reason(error)}"
        raise InferenceError(what, at=at, remedy="pass it detached and contiguous, or as an array") from error
    return value


def _taken(port: Port, value: Any) -> Any:
    """Give a result to the caller: what no operator computed is copied, for the session has it too."""
    if not value.has_value():
        return None
    if port.dtype is DType.STRING:
        return np.array(value.numpy())
    result = OrtTensor(value, port.dtype.numpy)
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
