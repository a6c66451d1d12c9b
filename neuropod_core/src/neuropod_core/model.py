"""What users hold: one executor with its problem enforced."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

from neuropod_core import plugins
from neuropod_core._arguments import lengths_for, names_of, seconds_of, zeros_for
from neuropod_core._comparison import compare
from neuropod_core._unchecked import check_of_some, unchecked_call, unchecked_inputs
from neuropod_core.backend import Array, Executor, Names, NativeTensors, Tensors
from neuropod_core.checks import (
    Casts,
    InputCheck,
    OutputCheck,
    checked_call,
    input_check,
    native_input_check,
    native_output_check,
    output_check,
)
from neuropod_core.errors import (
    InferenceError,
    ModelClosedError,
    NeuropodError,
    OptionError,
    OutOfDeviceMemoryError,
    PackageError,
    TensorMismatchError,
    shown,
    worded,
)
from neuropod_core.package import Package
from neuropod_core.problem import Problem, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Neuropod"]

_logger = logging.getLogger("neuropod")


class Neuropod:
    """A loaded model of any framework.

    `load_neuropod` makes it. It is a context manager: leaving the block frees the model. Calls may come from several
    threads at once.

    Attributes
    ----------
    name, platform
        As the package says.
    problem
        What is enforced on the way in and out.
    framework_version
        Version of the framework that runs it; empty if there is none.
    """

    def __init__(
        self,
        package: Package,
        executor: Executor,
        *,
        framework_version: str = "",
        checks: bool = True,
        cast: Casts = "no",
    ) -> None:
        self.name, self.platform = package.config.name, package.config.platform
        self.problem: Problem = package.config.problem
        self.framework_version = framework_version
        self._package, self._executor = package, executor
        self._closing = threading.Lock()
        self._checks, self._cast = checks, cast
        takes_native = executor.takes_native
        self._check_inputs = input_check(self.problem, cast, takes_native=takes_native) if checks else unchecked_inputs
        call = partial(checked_call, self.problem, cast=cast, takes_native=takes_native) if checks else unchecked_call
        self._call = call(executor.infer)
        self._check_some = lru_cache(maxsize=64)(partial(check_of_some, self.problem, output_check, checks=checks))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the tensors that go in."""
        return self.problem.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the tensors that come out."""
        return self.problem.outputs

    @property
    def stateful(self) -> bool:
        """Whether a call changes what later calls give."""
        return self._executor.stateful

    @property
    def description(self) -> Mapping[str, object]:
        """Facts about what runs, as the backend tells them: device, threads, providers."""
        return self._executor.description

    @overload
    def infer(
        self,
        inputs: Mapping[str, Any],
        outputs: Names = None,
        *,
        timeout_s: float | None = None,
        result: Literal["numpy"] = "numpy",
    ) -> Tensors: ...

    @overload
    def infer(
        self,
        inputs: Mapping[str, Any],
        outputs: Names = None,
        *,
        timeout_s: float | None = None,
        result: Literal["native"],
    ) -> NativeTensors: ...

    def infer(
        self,
        inputs: Mapping[str, Any],
        outputs: Names = None,
        *,
        timeout_s: float | None = None,
        result: str = "numpy",
    ) -> NativeTensors:
        """Run the model once.

        Parameters
        ----------
        inputs
            Tensors by name, each as its spec in `inputs` says: NumPy arrays, or anything with ``__dlpack__`` or the
            array interface. Read, never written. Those on a device go in as they are where the backend takes them.
        outputs
            Names of the outputs to compute; None for all of them.
        timeout_s
            Seconds to wait for a worker or a server; None and infinity wait forever. Ignored in process.
        result
            ``"numpy"`` for arrays, or ``"native"`` for tensors of the framework, left on the device where they are
            (text stays an array). Not every backend has them, and what comes from another process is arrays.

        Returns
        -------
        Arrays (or native tensors) by name, each as its spec in `outputs` says. They belong to the caller; no later
        call changes them.

        Raises
        ------
        TensorMismatchError
            If a tensor contradicts its spec. For an input, the model has not run.
        InferenceError
            If the framework fails, or the model is closed.
        DeadlineError
            If the time is up; what runs in the worker runs on, and its result is dropped.
        SharedMemoryError
            If tensors find no room on their way to a worker, or back, within ten seconds.
        OptionError
            If `result` is neither of the two, or the backend gives no native tensors; if `timeout_s` is no number of
            seconds above 0.
        """
        try:
            if timeout_s is not None:
                timeout_s = seconds_of(timeout_s)
            if result != "numpy":
                return self._infer_native(inputs, outputs, result, timeout_s)
            if outputs is None and timeout_s is None:
                return self._call(inputs)
            arrays, sizes = self._check_inputs(inputs)
            names, check = self._asked(outputs)
            if timeout_s is None:
                return check(self._executor.infer(arrays, names), sizes)
            return check(self._executor.infer_within(timeout_s, arrays, names), sizes)
        except NeuropodError as error:
            self._report(error)
            raise
        except Exception as error:  # An executor translates its framework's errors; what it forgot ends here.
            raise self._unforeseen(error) from error

    async def infer_async(
        self, inputs: Mapping[str, Any], outputs: Names = None, *, timeout_s: float | None = None
    ) -> Tensors:
        """Run the model once, as `infer` does, while the event loop goes on.

        In process, the call runs in a thread. A task that is cancelled gets no result; what runs, runs on.

        Raises
        ------
        NeuropodError
            As in `infer`.
        """
        try:
            limit_s = None if timeout_s is None else seconds_of(timeout_s)
            arrays, sizes = self._check_inputs(inputs)
            names, check = self._asked(outputs)
            return check(await self._executor.infer_async(arrays, names, limit_s), sizes)
        except NeuropodError as error:
            self._report(error)
            raise
        except Exception as error:
            raise self._unforeseen(error) from error

    def allocate(self, name: str, shape: Sequence[int]) -> Array:
        """Give an array for an input; a worker reads a large one where it lies, without a copy.

        Fill it, and pass it to `infer`, as often as you like. Text, small arrays (64 KiB) and those for workers behind
        sockets are copied like any other.

        Parameters
        ----------
        name
            Of the input: it says the element type.
        shape
            Lengths, one for each dimension of the input.

        Raises
        ------
        TensorMismatchError
            If there is no such input, or it cannot have such a shape.
        SharedMemoryError
            If there is no room.
        OutOfDeviceMemoryError
            If this process has no such memory.
        """
        spec = next((spec for spec in self.inputs if spec.name == name), None)
        if spec is None:
            there = ", ".join(spec.name for spec in self.inputs) or "none"
            raise TensorMismatchError(f"inputs.{name}", f"one of the inputs ({there})", shown(name))
        lengths = lengths_for(spec, shape)
        try:
            return self._executor.allocate(lengths, spec.dtype)
        except (MemoryError, ValueError) as error:  # NumPy says the latter of sizes that no address reaches.
            if isinstance(error, NeuropodError):
                raise
            what = f"there is no memory for {prod(lengths) * spec.dtype.itemsize} bytes"
            raise OutOfDeviceMemoryError(what, at=f"inputs.{name}", remedy="pass a smaller shape") from error

    def stats(self) -> Mapping[str, object]:
        """Count what has happened so far: calls, who waits, times, restarts, memory; nothing in process.

        Workers give ``calls`` (with results), ``failed`` (the others), ``running``, ``waiting``, ``latency_us`` (upper
        bounds in microseconds -> calls), ``restarts``, ``replicas`` and ``shared_memory_bytes``.
        """
        return self._executor.stats()

    def warm_up(self, sizes: Mapping[str, int] | None = None) -> None:
        """Run the model once, so that the first real call does not pay for lazy set-up.

        Runs on the packaged test data, or on zeros where there is none or `sizes` is given.

        Parameters
        ----------
        sizes
            Lengths for the symbols of the inputs (``{"N": 8}``); what is missing is 1.

        Raises
        ------
        OptionError
            If `sizes` has another name, or no array has such a length.
        InferenceError
            If the call fails.
        PackageError
            If the test data cannot be read.
        """
        packaged = self._package.test_data() if sizes is None else None
        self.infer(packaged.inputs if packaged else zeros_for(self.inputs, sizes or {}))

    def test(self) -> dict[str, float]:
        """Run the packaged test data and compare the results: text exactly, numbers by `numpy.allclose`.

        Returns
        -------
        The largest absolute difference for each output; 0.0 for text.

        Raises
        ------
        PackageError
            If the package holds no test data, or it cannot be read.
        ResultMismatchError
            If a result is not the expected one.
        InferenceError
            If the call fails.
        """
        packaged = self._package.test_data()
        if packaged is None:
            remedy = "package it with test_input_data and test_expected_out"
            raise PackageError("has no test data", at=self._package.place, remedy=remedy)
        # Packages of the original may hold inputs alone: the model runs all the same.
        return compare(self.infer(packaged.inputs, tuple(packaged.outputs) or None), packaged.outputs)

    def close(self) -> None:
        """Free the model and what it holds; again is harmless. A call that runs in another thread ends or raises.

        Raises
        ------
        InferenceError
            If the backend fails; the model is closed all the same.
        """
        with self._closing:
            executor, self._executor = self._executor, _CLOSED
            self._call = _closed_call
            try:
                executor.close()
            except NeuropodError:
                raise
            except Exception as error:
                raise self._unforeseen(error) from error

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: a loaded model belongs to its process."""
        what = "a loaded model is neither copied nor pickled"
        raise OptionError(what, remedy="send the path of the package, and load it where it is to run")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self.close()
        except NeuropodError:
            if error is None:
                raise
            _logger.warning("%s could not be closed", self.name, exc_info=True)  # What ended the block matters more.

    def __repr__(self) -> str:
        return f"<Neuropod {self.name!r} ({self.platform}) {self.problem}>"

    def _infer_native(
        self, inputs: Mapping[str, Any], outputs: Names, result: object, timeout_s: float | None
    ) -> NativeTensors:
        if result != "native":
            raise OptionError(f"result is 'numpy' or 'native', not {shown(result)}", at="result")
        check_inputs, check_outputs = self._native_checks
        tensors, sizes = check_inputs(inputs)
        names = None if outputs is None else names_of(outputs)
        check = check_outputs(names)
        return check(self._executor.infer_native_within(timeout_s, tensors, names), sizes)

    @cached_property
    def _native_checks(self) -> tuple[InputCheck, Callable[[tuple[str, ...] | None], OutputCheck]]:
        """Made when first needed: most models give arrays for all of their life."""
        inputs = native_input_check(self.problem, self._cast) if self._checks else unchecked_inputs
        of_some = partial(check_of_some, self.problem, native_output_check, checks=self._checks)
        return inputs, lru_cache(maxsize=64)(of_some)

    def _asked(self, outputs: Names) -> tuple[Names, OutputCheck]:
        names = None if outputs is None else names_of(outputs)
        return names, self._check_some(names)

    def _unforeseen(self, error: Exception) -> InferenceError:
        unforeseen = InferenceError(f"the {self.platform} backend raised {worded(error)}")
        self._report(unforeseen)
        return unforeseen

    def _report(self, error: NeuropodError) -> None:
        plugins.notify("neuropod_call_failed", model=self, error=error)


class _Closed(Executor):
    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        del inputs, outputs
        raise ModelClosedError("the model is closed", remedy="load it again")

    infer_native = infer

    def close(self) -> None:
        pass


_CLOSED = _Closed()


def _closed_call(inputs: Mapping[str, Any]) -> Tensors:
    return _CLOSED.infer(dict(inputs))
