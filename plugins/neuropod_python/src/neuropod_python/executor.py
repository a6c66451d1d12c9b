"""Calls the callable of a package: private arrays in, owned arrays out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from keyword import iskeyword
from pathlib import Path
from threading import Lock
from traceback import walk_tb
from types import TracebackType
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Executor, Names, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import InferenceError, ModelClosedError, OutOfDeviceMemoryError
from neuropod_core.problem import Problem
from neuropod_core.results import copied
from neuropod_core.tensors import as_array, as_text, describe
from neuropod_python.ownership import (
    WORDS,
    are_all_private,
    calibrate,
    is_private_dict,
    is_private_made,
    is_private_view,
    private_source,
)

__all__ = ["PythonExecutor", "failure", "place_of"]

_LONGEST_MESSAGE = 500


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
        texts = frozenset(spec.name for spec in problem.outputs if spec.dtype is DType.STRING)
        self._names: dict[str, Any] = {"private": np.array, "texts": texts, "code": code, "lock": Lock()} | _WORDS
        self._close = close
        self._description = dict(description or {})
        self.serial, self.stateful = not thread_safe, stateful
        source = _source(problem, copies=writes_inputs, queues=not thread_safe)
        exec(compile(source, "<neuropod_python call>", "exec"), self._names)  # noqa: S102 - identifiers and our own words
        if _is_written_out(problem):
            _calibrate(self._names, [spec.name for spec in problem.outputs])
        self._names["model"] = model
        vars(self)["infer"] = self._names["infer"]  # Spares each call a call.

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Call the model; a model that is not safe in threads lets one call at a time in."""
        results: Tensors = self._names["infer"](inputs, outputs)
        return results

    def close(self) -> None:
        """Wait for the call before, then drop the model and its modules."""
        with self._names["lock"]:
            self._names["model"] = _closed
            self._close()

    @property
    def description(self) -> Mapping[str, object]:
        """The version of Python and how the model is called."""
        return self._description


def failure(error: BaseException, code: Path) -> InferenceError:
    """Translate what the code of a package raised in a call."""
    kind = type(error).__name__
    message = message_of(error)
    what = f"the model raised {kind}{': ' * bool(message)}{message}"[:_LONGEST_MESSAGE].replace("\n", " ")
    at = place_of(error.__traceback__, code)
    if kind == "OutOfMemoryError":  # Torch's, without importing it.
        return OutOfDeviceMemoryError(what, at)
    return InferenceError(what, at)


def message_of(error: BaseException) -> str:
    """Give the message of an error of a package, which may be unable to say anything."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - foreign code
        return "its message cannot be read"


def place_of(traceback: TracebackType | None, code: Path) -> str:
    """Give ``file:line`` of the innermost frame in `code`, or nothing if there is none."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(traceback)]
    own = [f"{file}:{line}" for file, line in frames if Path(file).is_relative_to(code)]
    return own[-1] if own else ""


def _closed(**inputs: Array) -> None:
    del inputs
    raise ModelClosedError("the model is closed", remedy="load it again")


_CALL = """
def infer(inputs, outputs=None):
    try:
        {queue}results = {call}
    except unchanged:
        raise
    except BaseException as error:  # The code of a package may raise anything, SystemExit too.
        raise failure(error, code) from error
    {look}
    is_private = is_private_dict(results)  # While nothing but the variable refers to it.
    return taken(results, texts, outputs, is_private=is_private)
"""
_LOOK = """if outputs is None and not texts and are_all_private(results):
        return results"""
_MOST_WRITTEN_OUT = 16


def _source(problem: Problem, *, copies: bool, queues: bool) -> str:
    """Write the call of a model; with the keywords written out it takes half the time of one through a dictionary."""
    names = [spec.name for spec in problem.inputs]
    whole = "model(**{name: private(array) for name, array in inputs.items()})" if copies else "model(**inputs)"
    if all(name.isascii() and name.isidentifier() and not iskeyword(name) for name in names):
        complete = ", ".join(f"{name}={'private' * copies}(inputs[{name!r}])" for name in names)
        whole = f"model({complete}) if len(inputs) == {len(names)} else {whole}"
    look = _LOOK
    if _is_written_out(problem):
        look = "\n        ".join(["if outputs is None:", *private_source(len(problem.outputs))])
    return _CALL.format(queue="with lock: " * queues, call=whole, look=look)


def _is_written_out(problem: Problem) -> bool:
    return 0 < len(problem.outputs) <= _MOST_WRITTEN_OUT and not any(
        spec.optional or spec.dtype is DType.STRING for spec in problem.outputs
    )


def _calibrate(words: dict[str, Any], names: list[str]) -> None:
    def returned(make: Callable[[], Any]) -> bool:
        words["model"] = make
        return words["infer"]({}) is not None

    words |= {f"name{place}": name for place, name in enumerate(names)} | {"taken": lambda *_, **__: None}
    calibrate(words, names, returned)
    words["taken"] = _taken


def _taken(results: object, texts: frozenset[str], outputs: Names, *, is_private: bool) -> Tensors:
    """Copy out of `results` what somebody else may hold; a value that is no tensor is left for the checks to name."""
    if not isinstance(results, Mapping):
        raise _no_tensors(results)
    names = list(results) if outputs is None else [name for name in outputs if name in results]
    taken = {}
    for name in names:
        value = results[name]
        is_owned = is_private and (is_private_view(value) or is_private_made(value))
        taken[name] = value if is_owned else _copied(value, is_text=name in texts)
    return taken


def _copied(value: Any, *, is_text: bool) -> Any:
    array = value if type(value) is np.ndarray else as_array(_on_cpu(value))
    if array is None:
        return value
    text = as_text(array) if is_text else None
    return copied(array) if text is None or text is array else text


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


_WORDS: dict[str, Any] = {
    **WORDS,
    "are_all_private": are_all_private,
    "failure": failure,
    "is_private_dict": is_private_dict,
    "taken": _taken,
    "unchanged": (KeyboardInterrupt, ModelClosedError),
}
