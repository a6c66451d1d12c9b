"""Calls the callable of a package: private arrays in, owned arrays out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from keyword import iskeyword
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Executor, Names, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import InferenceError, ModelClosedError, OutOfDeviceMemoryError
from neuropod_core.problem import Problem
from neuropod_core.tensors import as_array, as_text, describe
from neuropod_python.ownership import are_all_private, is_private_dict, is_private_view

__all__ = ["PythonExecutor", "failure", "place_of"]

_LONGEST_MESSAGE = 500

_private = np.array


class PythonExecutor(Executor):
    """Runs a callable of a package.

    Parameters
    ----------
    model
        Takes the inputs by name, gives a dictionary of arrays.
    problem
        What it solves.
    code
        The folder of its code, to name the line that failed.
    close
        Called once when the model is dropped.
    writes_inputs
        False where the model is known neither to write into its inputs nor to keep them: they are not copied then.
    thread_safe
        Whether it may be called in several threads at once.
    stateful
        Whether a call changes what later calls give.
    description
        Facts for people and logs.

    Notes
    -----
    A model may write into its inputs (``x += 1``), and a read-only view would not stop `torch.from_numpy`, Cython or
    ctypes. So it gets copies: for small arrays a copy costs less than a read-only view.

    A result is handed on as it is only if nobody else can reach its memory: an array of its own memory, to which there
    is no reference, strong or weak, but that of the result. Anything else is copied.
    """

    def __init__(
        self,
        model: Callable[..., object],
        problem: Problem,
        *,
        code: Path,
        close: Callable[[], None],
        writes_inputs: bool = True,
        thread_safe: bool = False,
        stateful: bool = False,
        description: Mapping[str, object] | None = None,
    ) -> None:
        self._call = _compiled_call(model, [spec.name for spec in problem.inputs], copies=writes_inputs)
        self._texts = frozenset(spec.name for spec in problem.outputs if spec.dtype is DType.STRING)
        self._code, self._close = code, close
        self._description = dict(description or {})
        self.thread_safe, self.stateful = thread_safe, stateful

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Call the model."""
        try:
            results = self._call(inputs)
        except (KeyboardInterrupt, ModelClosedError):
            raise
        except BaseException as error:  # The code of a package may raise anything, SystemExit too.
            raise failure(error, self._code) from error
        if outputs is None and not self._texts and are_all_private(results):
            return results  # type: ignore[no-any-return]  # looked at, value by value
        is_private = is_private_dict(results)
        return _taken(results, self._texts, outputs, is_private=is_private)

    def close(self) -> None:
        """Drop the model and its modules."""
        self._call = _closed
        self._close()

    @property
    def description(self) -> Mapping[str, object]:
        """The version of Python and how the model is called."""
        return self._description


def failure(error: BaseException, code: Path) -> InferenceError:
    """Translate what the code of a package raised in a call."""
    kind = type(error).__name__
    what = f"the model raised {kind}: {error}"[:_LONGEST_MESSAGE].replace("\n", " ")
    at = place_of(error.__traceback__, code)
    if kind == "OutOfMemoryError":  # Torch's, without importing it.
        return OutOfDeviceMemoryError(what, at)
    return InferenceError(what, at)


def place_of(traceback: TracebackType | None, code: Path) -> str:
    """Give ``file:line`` of the innermost frame in `code`, or nothing if there is none."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(traceback)]
    own = [f"{file}:{line}" for file, line in frames if Path(file).is_relative_to(code)]
    return own[-1] if own else ""


def _closed(inputs: Tensors) -> None:
    del inputs
    raise ModelClosedError("the model is closed", remedy="load it again")


def _compiled_call(model: Callable[..., Any], names: list[str], *, copies: bool) -> Callable[[Tensors], Any]:
    """Make the call of `model`; with the keywords written out it takes half the time of one through a dictionary."""
    private = _private if copies else _as_it_is
    if not all(name.isascii() and name.isidentifier() and not iskeyword(name) for name in names):
        return lambda inputs: model(**{name: private(array) for name, array in inputs.items()})
    complete = ", ".join(f"{name}={'private' * copies}(inputs[{name!r}])" for name in names)
    some = "**{name: private(array) for name, array in inputs.items()}"
    source = f"lambda inputs: model({complete}) if len(inputs) == {len(names)} else model({some})"
    call: Callable[[Tensors], Any] = eval(source, {"model": model, "private": private})  # noqa: S307 - identifiers only
    return call


def _as_it_is(array: Array) -> Array:
    return array


def _taken(results: object, texts: frozenset[str], outputs: Names, *, is_private: bool) -> Tensors:
    """Copy out of `results` what somebody else may hold; a value that is no tensor is left for the checks to name."""
    if not isinstance(results, Mapping):
        raise _no_tensors(results)
    names = list(results) if outputs is None else [name for name in outputs if name in results]
    taken = {}
    for name in names:
        value = results[name]
        is_owned = is_private and is_private_view(value)
        taken[name] = value if is_owned else _copied(value, is_text=name in texts)
    return taken


def _copied(value: Any, *, is_text: bool) -> Any:
    array = value if type(value) is np.ndarray else as_array(_on_cpu(value))
    if array is None:
        return value
    text = as_text(array) if is_text else None
    return np.array(array) if text is None or text is array else text


def _on_cpu(value: Any) -> Any:
    """Take a tensor out of the reach of autograd and of an accelerator, as torch spells it."""
    for method in ("detach", "cpu"):
        value = getattr(value, method)() if hasattr(value, method) else value
    return value


def _no_tensors(results: object) -> InferenceError:
    if inspect.iscoroutine(results):
        results.close()
    remedy = "return a dictionary of arrays by output name"
    return InferenceError(f"the model returned {describe(results)}, not tensors by name", remedy=remedy)
