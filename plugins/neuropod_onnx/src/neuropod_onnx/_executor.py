"""Runs one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuropod_core.backend import Array, Executor, Names, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelClosedError, TensorMismatchError
from neuropod_onnx import _bfloat16
from neuropod_onnx._errors import call_failed
from neuropod_onnx._lanes import Lanes
from neuropod_onnx._providers import CPU
from neuropod_onnx._signature import Port, Signature

__all__ = ["OnnxExecutor"]


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
        # The public method looks at every input again before it calls this one.
        self._inner = getattr(session, "_sess", None) or session
        self._names = [port.name for port in signature.outputs]
        self._nodes = {port.name: port.node for port in signature.outputs}
        self._required = [port for port in signature.inputs if port.required]
        self._renamed = [(port.name, port.node) for port in signature.inputs]
        self._same_names = all(name == node for name, node in self._renamed)
        self._handed_through = {port.node for port in signature.outputs if port.is_stored}
        self._facts = dict(description or {})
        dtypes = {port.dtype for port in (*signature.inputs, *signature.outputs)}
        self._call = self._call_bfloat16 if _bfloat16.check_supported(signature) else self._call_plain
        self._lanes: Lanes | None = None
        if DType.STRING not in dtypes and list(session.get_providers()) == [CPU]:
            self._lanes = Lanes(session, run_options, signature)
            fast = self._lanes.fast(self.infer)
            self.infer = fast  # type: ignore[method-assign]  # this model's own straight-line code in front of `infer`

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model once; see `Executor.infer`.

        ONNX Runtime computes the whole graph whatever is asked for; only what is asked for is fetched.
        """
        names = self._names if outputs is None else [name for name in self._names if name in outputs]
        for port in self._required:
            if port.name not in inputs:
                raise _nothing(port)
        results = self._run(inputs, names)
        if self._lanes is not None and outputs is None:
            self._lanes.offer(inputs, results)
        return results

    def close(self) -> None:
        """Free the session and every buffer bound to it."""
        if self._lanes is not None:
            self._lanes.close()
        self.__dict__.pop("infer", None)
        self._session = self._inner = self._run_options = None

    @property
    def description(self) -> Mapping[str, object]:
        """Version, providers and threads."""
        return self._facts

    def _run(self, inputs: Tensors, names: list[str]) -> Tensors:
        if self._session is None:
            raise ModelClosedError("the model is closed", remedy="load it again")
        feed = inputs if self._same_names else {node: inputs[name] for name, node in self._renamed if name in inputs}
        if not names:
            return {}  # ONNX Runtime takes an empty list for all of them.
        try:
            values = self._call(feed, [self._nodes[name] for name in names])
        except Exception as error:
            raise call_failed(error) from error
        return dict(zip(names, values, strict=True))

    def _call_plain(self, feed: Tensors, nodes: list[str]) -> list[Array]:
        values: list[Array] = self._inner.run(nodes, feed, self._run_options)
        if self._handed_through:
            return [v.copy() if n in self._handed_through else v for n, v in zip(nodes, values, strict=True)]
        return values

    def _call_bfloat16(self, feed: Tensors, nodes: list[str]) -> list[Array]:
        return _bfloat16.run(self._session, feed, nodes, self._run_options)


def _nothing(port: Port) -> TensorMismatchError:
    return TensorMismatchError(f"inputs.{port.name}", port.spec.notation, "nothing", "the model has no default for it")
