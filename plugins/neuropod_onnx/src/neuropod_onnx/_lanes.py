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
from neuropod_onnx._signature import Port, Signature

__all__ = ["MOST_BYTES", "Lanes"]

MOST_BYTES = 16_384
_MOST_SHAPES = 16
_MOST_LANES = 8  # For each set of shapes.

Lane = tuple[Any, ...]
Infer = Callable[..., Tensors]


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
    """

    def __init__(self, session: Any, run_options: Any, signature: Signature) -> None:
        self._session, self._run_options, self._signature = session, run_options, signature
        self._names = [port.name for port in signature.inputs]
        self._single = len(self._names) == 1
        self._ready: dict[Any, list[Lane]] = {}
        self._made: dict[Any, int] = {}
        self._last: Any = None
        self._retired = False
        self._lock = threading.Lock()

    def fast(self, slow: Infer) -> Infer:
        """Write `infer` for this signature: straight-line code over a lane, and `slow` for every other call."""
        inputs, outputs = self._signature.inputs, self._signature.outputs
        names: dict[str, Any] = {"ready": self._ready, "slow": slow, "again": partial(self._again, slow)}
        names |= {f"n{i}": port.name for i, port in enumerate(inputs)}
        names |= {f"t{i}": port.dtype.numpy for i, port in enumerate(inputs)}
        names |= {f"m{i}": port.name for i, port in enumerate(outputs)}
        exec(_source(len(inputs), len(outputs)), names)  # noqa: S102 - the source holds counts, no text of a package
        fast: Infer = names["infer"]
        return fast

    def _again(self, slow: Infer, inputs: Tensors, lanes: list[Lane], lane: Lane) -> Tensors:
        try:
            results = slow(inputs)
        except Exception:
            lanes.append(lane)  # These values fail in any way; the lane is as good as before.
            raise
        self.retire()
        return results

    def offer(self, inputs: Tensors, results: Tensors) -> None:
        """Learn from a call that took no lane: shapes that come a second time get one."""
        if self._retired or len(inputs) != len(self._names):
            return
        shapes = self._shapes(inputs)
        if shapes != self._last:
            self._last = shapes
        elif self._fits(inputs, results):
            with self._lock:
                self._grow(shapes, inputs, results)

    def _grow(self, shapes: Any, inputs: Tensors, results: Tensors) -> None:
        if self._retired or self._made.get(shapes, 0) >= _MOST_LANES:
            return
        lane = self._lane(inputs, results)
        if lane is None:
            self._stop()
        else:
            self._add(shapes, lane)

    def retire(self) -> None:
        """Make and keep no more lanes."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        self._retired = True
        self._ready.clear()
        self._made.clear()

    def close(self) -> None:
        """Free the lanes and forget the session."""
        self.retire()
        self._session = self._run_options = None

    def _shapes(self, inputs: Tensors) -> Any:
        shapes = tuple([inputs[name].shape for name in self._names])
        return shapes[0] if self._single else shapes

    def _add(self, shapes: Any, lane: Lane) -> None:
        if shapes not in self._made and len(self._made) >= _MOST_SHAPES:
            oldest = next(iter(self._made))
            del self._made[oldest]
            self._ready.pop(oldest, None)
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
        except Exception:  # Any reason will do to go on without lanes: the same call just succeeded.
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


def _source(inputs: int, outputs: int) -> str:
    ins, outs = range(inputs), range(outputs)
    other_types = " or ".join(f"a{i}.dtype is not t{i}" for i in ins)
    return "\n".join(
        [
            "def infer(inputs, outputs=None):",
            "    if outputs is not None:",
            "        return slow(inputs, outputs)",
            "    try:",
            *[f"        a{i} = inputs[n{i}]" for i in ins],
            f"        if {other_types or 'False'}:",
            "            return slow(inputs)",
            f"        lanes = ready[{', '.join(f'a{i}.shape' for i in ins) or '()'}]",
            "        lane = lanes.pop()",
            "    except (KeyError, IndexError):",
            "        return slow(inputs)",
            f"    {', '.join(['run', *[f'i{i}' for i in ins], *[f'o{i}' for i in outs]])}, = lane",
            *[f"    i{i}[...] = a{i}" for i in ins],  # Four times as fast as `numpy.copyto`.
            "    try:",
            "        run()",
            "    except Exception:",
            "        return again(inputs, lanes, lane)",
            f"    results = {{{', '.join(f'm{i}: o{i}()' for i in outs)}}}",
            "    lanes.append(lane)",
            "    return results",
        ]
    )


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
