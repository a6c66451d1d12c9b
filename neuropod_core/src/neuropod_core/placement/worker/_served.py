"""The worker's side, whatever the transport: the model that is served, and who answers calls for it."""

from __future__ import annotations

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from neuropod_core.backend import Executor, Tensors
from neuropod_core.errors import InferenceError, TensorMismatchError, shown, worded
from neuropod_core.problem import Problem
from neuropod_core.tensors import as_array, as_text, describe, dtype_of

logger = logging.getLogger("neuropod.worker")


class Served:
    """A loaded model, and what is said about what it returns.

    Attributes
    ----------
    traces
        Whether every call is logged.
    """

    def __init__(self, executor: Executor, problem: Problem, platform: str) -> None:
        self.executor, self._platform = executor, platform
        self._notations = {spec.name: spec.notation for spec in problem.outputs}
        self.traces = logger.isEnabledFor(logging.DEBUG)

    def shippable(self, results: object, most: int) -> Tensors:
        """Give results as arrays that can travel, at most so many; what must not be is said as the checks say it."""
        if not isinstance(results, Mapping):
            raise TensorMismatchError("outputs", "tensors by name", describe(results))
        if len(results) > most or not all(isinstance(name, str) for name in results):
            self._refuse(results)
        return {name: self._array(name, value) for name, value in results.items()}

    def _refuse(self, results: Mapping[Any, object]) -> None:
        """Say of results that are more than can travel what the checks say of one that the problem lacks."""
        name = next(name for name in results if name not in self._notations)
        expected = f"one of the outputs ({', '.join(self._notations)})"
        at = f"outputs.{name}" if isinstance(name, str) else "outputs"
        raise TensorMismatchError(at, expected, shown(name), "leave it out or rename it")

    def unforeseen(self, error: BaseException) -> InferenceError:
        """Say an error that is no `NeuropodError` as `Neuropod.infer` says it in process."""
        at = "" if isinstance(error, Exception) else _place_of(error)  # In process, an interrupt would be the caller's.
        said = InferenceError(f"the {self._platform} backend raised {worded(error)}", at)
        said.__cause__ = error
        return said

    def _array(self, name: object, value: object) -> Any:
        array = as_array(value)
        if array is not None and array.dtype.kind in "OUST":
            array = as_text(array)
        dtype = None if array is None else dtype_of(array)
        if array is None or dtype is None or array.dtype != dtype.numpy or not isinstance(name, str):
            notation = self._notations.get(str(name), "a tensor")
            raise TensorMismatchError(f"outputs.{name}", notation, describe(value))
        return array


def _place_of(error: BaseException) -> str:
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{Path(frame.f_code.co_filename).name}:{line}"


def trace_failure(slot: int, call: int, started: float, error: BaseException) -> None:
    """Log a call that raised: the name of its error, and how long it ran; its words go to the caller."""
    spent_us = (time.perf_counter() - started) * 1e6
    logger.debug("slot %d, call %d: raised %s after %.1f us", slot, call, type(error).__name__, spent_us)


def await_the_end() -> NoReturn:
    """Wait where the parent is gone: the thread that listens to it ends this process."""
    while True:
        time.sleep(1)


class Desk(ABC):
    """Answers the calls of one slot, or of several, one after the other."""

    @abstractmethod
    def serve(self) -> None:
        """Answer calls until the process ends."""


class End(ABC):
    """The worker's end of a transport.

    Attributes
    ----------
    desks
        Each with a thread of its own.
    """

    desks: Sequence[Desk]

    @abstractmethod
    def hear(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        """Take in what the parent says beside the calls.

        Raises
        ------
        WorkerProtocolError
            If it cannot be.
        """
