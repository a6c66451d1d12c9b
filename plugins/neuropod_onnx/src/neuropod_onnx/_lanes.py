"""Lanes: input and output buffers bound to a session once, so that a call of a known shape binds nothing.

A small model spends more time on being handed tensors than on computing. A lane is one set of buffers: a call copies
its inputs in, runs, and copies its outputs out. Each call in flight has a lane to itself, so threads share none.

Lanes are taken where everything runs on the CPU, all inputs are given, all outputs are asked for, and the buffers are
small: beyond `MOST_BYTES` copying costs more than binding. ONNX Runtime refuses to write an output of another shape
into a bound buffer; a model to which that happens once has shapes that depend on values, and gets no lanes any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.dtypes import DType
from neuropod_onnx._compiled import UNFIT
from neuropod_onnx._signature import Port, Signature

__all__ = ["MOST_BYTES", "Lanes", "no_lanes"]

MOST_BYTES = 16_384
_MOST_SHAPES = 32
_MOST_LANES = 8  # For each set of shapes.

Lane = tuple[Any, ...]


class Lanes:
    """The lanes of one session, by the shapes of the inputs.

    Parameters
    ----------
    session
        The session, on the CPU.
    run_options
        Options of every call.
    signature
        Its tensors; none of them strings.
    names
        Globals of the compiled function, in which ``lanes_for`` is kept.
    """

    def __init__(self, session: Any, run_options: Any, signature: Signature, names: dict[str, Any]) -> None:
        self._session, self._run_options, self._signature = session, run_options, signature
        self._names = names
        self._ready: dict[Any, Any] = {}  # Lanes that wait for a call, or UNFIT.
        names["lanes_for"] = self._ready.get  # Where nothing is known of the shapes, None.
        self._made: dict[Any, int] = {}
        self._seen: set[Any] = set()
        self._retired = False
        self._lock = threading.Lock()

    def offer(self, inputs: Tensors, results: Tensors) -> None:
        """Learn from a call that took no lane: shapes that come a second time get one."""
        if self._retired or any(port.name not in inputs for port in self._signature.inputs):
            return
        shapes = tuple([inputs[port.name].shape for port in self._signature.inputs])
        shapes = shapes[0] if len(shapes) == 1 else shapes
        fits = self._fits(inputs, results)
        if fits and shapes not in self._seen:
            self._seen = {shapes} if len(self._seen) >= _MOST_SHAPES else self._seen | {shapes}
        elif self._made.get(shapes, 0) < _MOST_LANES:
            with self._lock:
                self._learn(shapes, self._lane(inputs, results) if fits and not self._retired else UNFIT)

    def retire(self) -> None:
        """Make and keep no more lanes."""
        with self._lock:
            self._stop()

    def close(self) -> None:
        """Free the lanes and forget the session."""
        self.retire()
        self._session = self._run_options = None

    def _stop(self) -> None:
        self._retired = True
        self._names["lanes_for"] = no_lanes
        self._ready.clear()
        self._made.clear()

    def _learn(self, shapes: Any, lane: Lane | None) -> None:
        if self._retired or lane is None:
            self._stop()
            return
        if shapes not in self._ready and len(self._ready) >= _MOST_SHAPES:
            oldest = next(iter(self._ready))
            del self._ready[oldest]
            self._made.pop(oldest, None)
        if lane is UNFIT:
            self._ready[shapes] = UNFIT
        else:
            self._made[shapes] = self._made.get(shapes, 0) + 1
            self._ready.setdefault(shapes, []).append(lane)

    def _lane(self, inputs: Tensors, results: Tensors) -> Lane | None:
        """Bind new buffers and repeat the call on them; None if that gives anything else.

        ONNX Runtime leaves a bound output untouched where the graph hands an input through, without a word.
        """
        given = [np.zeros(inputs[port.name].shape, port.dtype.numpy) for port in self._signature.inputs]
        taken = [_spoilt(results[port.name]) for port in self._signature.outputs]
        run = bound_run(self._session, self._bind(given, taken), self._run_options)
        for port, buffer in zip(self._signature.inputs, given, strict=True):
            buffer[...] = inputs[port.name]
        try:
            run()
        except Exception:  # noqa: BLE001 - any reason will do to go on without: the same call just succeeded
            return None
        for port, buffer in zip(self._signature.outputs, taken, strict=True):
            if buffer.tobytes() != results[port.name].tobytes():
                return None
        return (run, *given, *[buffer.copy for buffer in taken])

    def _bind(self, given: list[Array], taken: list[Array]) -> Any:
        binding = self._session.io_binding()
        for port, buffer in zip(self._signature.inputs, given, strict=True):
            binding.bind_input(port.node, "cpu", 0, element_type(port), buffer.shape, buffer.ctypes.data)
        for port, buffer in zip(self._signature.outputs, taken, strict=True):
            binding.bind_output(port.node, "cpu", 0, element_type(port), buffer.shape, buffer.ctypes.data)
        return binding

    def _fits(self, inputs: Tensors, results: Tensors) -> bool:
        arrays = [*inputs.values(), *results.values()]
        typed = all(inputs[port.name].dtype == port.dtype.numpy for port in self._signature.inputs)
        return typed and all(array.size for array in arrays) and sum(array.nbytes for array in arrays) <= MOST_BYTES


def no_lanes(_shapes: object) -> tuple[Any, ...]:
    """Stand in for lanes where there are none: any shapes are unfit."""
    return UNFIT


def bound_run(session: Any, binding: Any, run_options: Any) -> Callable[[], None]:
    """Give a call that runs `binding`, without the checks of the public method where they can be left out."""
    inner = getattr(session, "_sess", None)
    if inner is None or not hasattr(binding, "_iobinding"):
        return partial(session.run_with_iobinding, binding, run_options)
    return partial(inner.run_with_iobinding, binding._iobinding, run_options)  # noqa: SLF001


def element_type(port: Port) -> Any:
    """Give the element type as ONNX Runtime's bindings want it: NumPy's, or a number where NumPy has none."""
    return 16 if port.dtype is DType.BFLOAT16 else port.dtype.numpy.type


def _spoilt(result: Array) -> Array:
    """Give a buffer like `result` in which every bit differs."""
    flat = ~np.frombuffer(result.tobytes(), np.uint8)
    buffer: Array = flat.view(result.dtype).reshape(result.shape)
    return buffer
