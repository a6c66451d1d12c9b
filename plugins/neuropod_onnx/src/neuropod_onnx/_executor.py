"""Runs one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neuropod_core.backend import Array, Executor, Names, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import InferenceError, ModelClosedError, TensorMismatchError
from neuropod_core.tensors import as_array
from neuropod_onnx._compiled import compile_infer
from neuropod_onnx._errors import call_failed
from neuropod_onnx._lanes import Lanes, no_lanes
from neuropod_onnx._native import NativeCalls, check_supported, has_dlpack
from neuropod_onnx._providers import CPU
from neuropod_onnx._signature import Port, Signature

if TYPE_CHECKING:  # The core has it since contract 1.1; those before are served too.
    from neuropod_core.backend import NativeTensors

__all__ = ["OnnxExecutor"]

Call = Callable[[list[str], Tensors, Any], list[Array]]


class OnnxExecutor(Executor):
    """One ONNX Runtime session and the names of its tensors.

    Parameters
    ----------
    session
        An open session.
    run_options
        Options of every call.
    signature
        The tensors of the problem, matched with the model's.
    description
        Facts about what runs.
    """

    thread_safe = True

    def __init__(
        self, session: Any, run_options: Any, signature: Signature, description: Mapping[str, object] | None = None
    ) -> None:
        self._session, self._run_options, self._signature = session, run_options, signature
        self._names = [port.name for port in signature.outputs]
        self._nodes = {port.name: port.node for port in signature.outputs}
        self._required = [port for port in signature.inputs if port.required]
        self._renamed = [(port.name, port.node) for port in signature.inputs]
        self._same_names = all(name == node for name, node in self._renamed)
        self._stored = {port.name for port in signature.outputs if port.is_stored}
        self._has_optional = any(port.may_be_nothing for port in signature.outputs)
        self._facts = dict(description or {})
        # The public `run` looks at every input again before it calls the inner one.
        inner = getattr(session, "_sess", None) or session
        by_value = check_supported(signature)
        takes_text = any(port.dtype is DType.STRING for port in signature.inputs)
        self._native = None if takes_text else NativeCalls(session, run_options, signature)
        self.takes_native = self._native is not None and has_dlpack()
        self._call: Call = self._native.run_arrays if self._native and by_value else inner.run
        self._compiled: dict[str, Any] = {"lanes_for": no_lanes}
        self._compiled_native: dict[str, Any] = {}
        self._lanes: Lanes | None = None
        self._compile_native()
        if signature.outputs and not self._has_optional:
            self._lanes = self._new_lanes()
            self._compile()

    def _new_lanes(self) -> Lanes | None:
        ports = (*self._signature.inputs, *self._signature.outputs)
        if any(port.dtype is DType.STRING for port in ports) or list(self._session.get_providers()) != [CPU]:
            return None
        return Lanes(self._session, self._run_options, self._signature, self._compiled)

    def _compile(self) -> None:
        """Put straight-line code for this model in front of `infer`."""
        self._compiled |= {
            "slow": self.infer,
            "again": self._infer_again,
            "run": self._call,
            "options": self._run_options,
            "failed": self._infer_otherwise,
        }
        self.infer = compile_infer(self._signature, self._compiled)  # type: ignore[method-assign]

    def _compile_native(self) -> None:
        made = self._native and self._native.compiled(self._signature, self.infer_native, call_failed)
        if made:
            self.infer_native, self._compiled_native = made  # type: ignore[method-assign]

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model once; see `Executor.infer`.

        ONNX Runtime computes the whole graph whatever is asked for; only what is asked for is fetched.
        """
        names = self._names if outputs is None else [name for name in self._names if name in outputs]
        self._check_given(inputs)
        results = self._run(inputs, names)
        if self._lanes is not None and outputs is None and _are_arrays(inputs):
            self._lanes.offer(inputs, results)
        return results

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Run the model once; results are `OrtTensor` where the session runs, or arrays of text.

        A model that takes text is handed arrays, and gives arrays: ONNX Runtime binds no text.
        """
        if self._native is None:
            arrays = {name: _array(name, tensor) for name, tensor in inputs.items()}
            return dict(self.infer(arrays, outputs))
        names = self._names if outputs is None else [name for name in self._names if name in outputs]
        self._check_given(inputs)
        feed = {node: inputs[name] for name, node in self._renamed if name in inputs}
        if not names:
            return {}
        try:
            values = self._native.run([self._nodes[name] for name in names], feed)
        except Exception as error:
            raise call_failed(error) from error
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    def close(self) -> None:
        """Free the session and every buffer bound to it."""
        if self._lanes is not None:
            self._lanes.close()
        self.__dict__.pop("infer", None)
        self.__dict__.pop("infer_native", None)
        # Whoever kept the compiled function finds his way to `ModelClosedError`, and keeps no session.
        self._compiled.update(lanes_for=_nothing_known, run=None, options=None)
        self._compiled_native.update(run=_closed, options=None)
        self._session = self._run_options = None
        self._native = None
        self._call = _closed

    @property
    def description(self) -> Mapping[str, object]:
        """Version, providers and threads."""
        return self._facts

    def _check_given(self, inputs: Mapping[str, object]) -> None:
        for port in self._required:
            if port.name not in inputs:
                raise _nothing(port)

    def _infer_otherwise(self, inputs: Tensors, error: Exception) -> Tensors:
        """Take a call over that ONNX Runtime refused: of tensors that lie on a device, or wrong in itself."""
        if _are_arrays(inputs):
            raise call_failed(error) from error
        return self._run(inputs, self._names)

    def _infer_again(self, inputs: Tensors, lanes: list[Any], lane: object) -> Tensors:
        """Take a call over whose lane failed."""
        try:
            results = self._run(inputs, self._names)
        except Exception:
            lanes.append(lane)  # These values fail in any way; the lane is as good as before.
            raise
        if not _are_arrays(inputs):
            lanes.append(lane)
        elif self._lanes is not None:
            self._lanes.retire()  # It runs without bound buffers: the shapes of its outputs depend on values.
        return results

    def _run(self, inputs: Tensors, names: list[str]) -> Tensors:
        feed = inputs if self._same_names else {node: inputs[name] for name, node in self._renamed if name in inputs}
        if not names:
            return {}  # ONNX Runtime takes an empty list for all of them.
        call = self._call if self._native is None or _are_arrays(inputs) else self._native.run_arrays
        try:
            values = call([self._nodes[name] for name in names], feed, self._run_options)
        except Exception as error:
            raise call_failed(error) from error
        results = zip(names, values, strict=True)
        owned = {name: value.copy() if name in self._stored and value is not None else value for name, value in results}
        # What the model declares optional may come as None.
        return {name: value for name, value in owned.items() if value is not None} if self._has_optional else owned


def _nothing(port: Port) -> TensorMismatchError:
    return TensorMismatchError(f"inputs.{port.name}", port.spec.notation, "nothing", "the model has no default for it")


def _are_arrays(tensors: Mapping[str, object]) -> bool:
    return all(type(tensor) is np.ndarray for tensor in tensors.values())


def _array(name: str, tensor: Any) -> Array:
    array = as_array(tensor)
    if array is None:
        raise InferenceError(
            "a model that takes text takes no tensors on a device", at=f"inputs.{name}", remedy="pass an array"
        )
    return array


def _closed(*_: object) -> list[Array]:
    raise ModelClosedError("the model is closed", remedy="load it again")


def _nothing_known(_shapes: object) -> None:
    return None
