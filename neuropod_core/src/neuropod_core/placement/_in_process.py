"""Models that run in this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from neuropod_core.backend import Backend, Executor, LoadOptions, Names, NativeTensors, Tensors
from neuropod_core.errors import ModelClosedError, ModelLoadError, NeuropodError, PluginError, shown, worded
from neuropod_core.placement._base import Placement
from neuropod_core.variants import Variant


class InProcess(Placement):
    """Runs models in this process: one call, no copy that the framework does not make."""

    def start(self, backend: Backend, variant: Variant, options: LoadOptions) -> Executor:
        """Load `variant` here."""
        executor = _loaded(backend, variant, options)
        return executor if executor.thread_safe else Serial(executor)


class Serial(Executor):
    """Lets one call at a time through to an executor that is not safe in threads."""

    serial = True

    def __init__(self, executor: Executor) -> None:
        self._executor, self._lock, self._closed = executor, threading.Lock(), False
        self.stateful, self.takes_native = executor.stateful, executor.takes_native

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Wait for the call before, then run."""
        with self._lock:
            return self._open().infer(inputs, outputs)

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Wait for the call before, then run."""
        with self._lock:
            return self._open().infer_native(inputs, outputs)

    def close(self) -> None:
        """Wait for the call before, then free the executor."""
        with self._lock:
            self._closed = True
            self._executor.close()

    @property
    def description(self) -> Mapping[str, object]:
        """What the executor says of itself."""
        return self._executor.description

    def _open(self) -> Executor:
        if self._closed:  # While this call waited.
            raise ModelClosedError("the model is closed", remedy="load it again")
        return self._executor


def gives_native(executor: Executor) -> bool:
    """Whether an executor has an `infer_native` of its own, or says that of the one in another process."""
    executor = getattr(executor, "_executor", executor) if isinstance(executor, Serial) else executor
    told = getattr(executor, "gives_native", None)
    return type(executor).infer_native is not Executor.infer_native if told is None else bool(told)


def _loaded(backend: Backend, variant: Variant, options: LoadOptions) -> Executor:
    where = f"{variant.platform} model {variant.name!r}"
    try:
        executor = backend.load(variant, options)
    except NeuropodError:
        raise
    except Exception as error:  # A backend translates its framework's errors; what it forgot ends here.
        raise ModelLoadError(f"loading raised {worded(error)}", at=where) from error
    if not isinstance(executor, Executor):
        reason = f"its backend loaded {shown(executor)}, not an Executor"
        raise PluginError(type(backend).__module__, reason, "let its load return one, or tell its author")
    return executor
