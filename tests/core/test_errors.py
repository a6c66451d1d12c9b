from __future__ import annotations

import inspect
import json
import pickle
from typing import Any

import pytest

from neuropod_core import errors
from neuropod_core.errors import NeuropodError, worded

CLASSES = [getattr(errors, name) for name in errors.__all__]


def made(kind: type[NeuropodError]) -> NeuropodError:
    """Build an error with a value of the right type for each argument."""
    values = {"limit": 1, "got": 2, "largest_difference": 0.5, "installed": ("a",), "rivals": ("a", "b")}
    values |= {
        "differences": ("numpy 1 != 2",),
        "timeout_s": 0.5,
        "last_lines": ("a", "b"),
        "missing": ("a",),
        "there": ("a",),
    }
    names = list(inspect.signature(kind).parameters)
    if kind is not errors.PackageLimitError:
        values.pop("got")
    arguments: list[Any] = [values.get(name, f"the {name}") for name in names]
    return kind(*arguments)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_survives_a_pickle(kind: type[NeuropodError]) -> None:
    error = made(kind)
    back = pickle.loads(pickle.dumps(error))

    assert type(back) is kind
    assert (str(back), back.facts) == (str(error), error.facts)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_is_one_line_of_plain_facts(kind: type[NeuropodError]) -> None:
    error = made(kind)

    assert str(error)
    assert "\n" not in str(error)
    assert kind(*json.loads(json.dumps(error.args))).args == error.args or kind is not NeuropodError
    assert error.facts


def test_errors_keep_old_except_clauses_working() -> None:
    assert issubclass(errors.InferenceError, RuntimeError)
    assert issubclass(errors.TensorMismatchError, errors.InferenceError)
    assert issubclass(errors.TensorMismatchError, ValueError)
    assert issubclass(errors.PackagingError, ValueError)
    assert issubclass(errors.PackageNotFoundError, FileNotFoundError)


def test_docstring_draws_every_class() -> None:
    assert errors.__doc__ is not None
    for kind in CLASSES:
        assert kind.__name__ in errors.__doc__


def test_shown_cuts_long_values() -> None:
    assert len(errors.shown("x" * 1000)) == 80


def test_an_error_that_cannot_say_anything_is_told_by_its_type() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert worded(MuteError()) == "MuteError: its message cannot be read"
    assert worded(KeyError("x")) == "KeyError: 'x'"
