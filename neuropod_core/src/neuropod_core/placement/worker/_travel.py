"""Errors between processes: the name of a registered class and plain facts, never a pickle."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any, cast

from neuropod_core import errors
from neuropod_core.errors import InferenceError, NeuropodError, shown

_LONGEST_TEXT = 16 << 10
_MOST_ITEMS = 1000
_DEEPEST = 16

_LARGEST = 1 << 512
"""Larger integers travel as text: to write them takes Python too long, or is refused."""

_CLASSES: dict[str, type[NeuropodError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, NeuropodError)
}


class CauseInWorkerError(Exception):
    """What an error came from in the worker, as text: the cause itself stays there.

    Attributes
    ----------
    type_name
        The class of the cause.
    trace
        Its traceback in the worker.
    """

    def __init__(self, type_name: str, message: str, trace: str = "") -> None:
        super().__init__(type_name, message, trace)
        self.type_name, self.message, self.trace = type_name, message, trace

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" + (f"\n\nin the worker:\n{self.trace}" if self.trace else "")


def facts_of(error: NeuropodError) -> dict[str, Any]:
    """Write an error as plain facts; one of a class that is not the core's becomes the nearest one that is."""
    kind = next(kind for kind in type(error).__mro__ if kind.__name__ in _CLASSES)
    own = type(error) is _CLASSES[kind.__name__]
    arguments = [_plain(argument) for argument in error.args] if own else [_cut(_words(error))]
    facts: dict[str, Any] = {"type": kind.__name__, "arguments": arguments}
    if error.__cause__ is not None:
        facts["cause"] = _cause_facts(error.__cause__)
    return facts


def fitting_facts(error: NeuropodError, most_bytes: int) -> bytes:
    """Write an error as JSON that takes no more than so many bytes: longer texts are cut further, never its type."""
    facts = facts_of(error)
    for longest in (_LONGEST_TEXT, 2000, 400, 40):
        body = json.dumps(_shortened(facts, longest), ensure_ascii=False).encode()
        if len(body) <= most_bytes:
            return body
    return json.dumps({"type": facts["type"], "arguments": []}).encode()


def error_from(facts: object) -> NeuropodError:
    """Read an error that another process wrote; whatever it is, it becomes one."""
    if not isinstance(facts, Mapping):
        return InferenceError(f"the worker failed and said {shown(facts)}")
    error = _built(facts)
    cause = facts.get("cause")
    if isinstance(cause, Mapping):
        texts = (_cut(str(cause.get(key, ""))) for key in ("type", "message", "trace"))
        error.__cause__ = CauseInWorkerError(*texts)
    return error


def _built(facts: Mapping[str, Any]) -> NeuropodError:
    name, arguments = facts.get("type"), facts.get("arguments")
    kind = _CLASSES.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(arguments, list):
        words = " ".join(map(str, arguments)) if isinstance(arguments, list) else shown(arguments)
        return InferenceError(_cut(f"the worker raised {name}: {words}"))
    try:
        error = kind(*(cast("Any", _thawed(argument)) for argument in arguments))
        str(error)
    except Exception:  # noqa: BLE001 - facts that do not fit the class are somebody else's words
        return InferenceError(_cut(f"the worker raised {name} with {shown(arguments)}"))
    return error


def _plain(value: object, depth: int = 0) -> Any:
    if value is None or type(value) is bool:
        return value
    if isinstance(value, int):
        return int(value) if -_LARGEST <= value <= _LARGEST else shown(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else str(value)
    if isinstance(value, str):
        return _cut(str.__str__(value))
    if isinstance(value, tuple | list) and depth < _DEEPEST:
        return [_plain(item, depth + 1) for item in value[:_MOST_ITEMS]]
    return _cut(_words(value))


def _words(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - foreign code, or a number of more digits than Python writes
        return shown(value)


def _shortened(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[: longest - 3]}..."
    if isinstance(value, list):
        return [_shortened(item, longest) for item in value[:longest]]
    return {key: _shortened(item, longest) for key, item in value.items()} if isinstance(value, dict) else value


def _thawed(value: object) -> object:
    return tuple(map(_thawed, value)) if isinstance(value, list) else value


def _cut(text: str) -> str:
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= _LONGEST_TEXT else f"{clean[: _LONGEST_TEXT - 3]}..."


def _cause_facts(cause: BaseException) -> dict[str, str]:
    trace = "".join(traceback.format_exception(type(cause), cause, cause.__traceback__))
    return {"type": type(cause).__name__, "message": _cut(_words(cause)), "trace": _cut(trace)}
