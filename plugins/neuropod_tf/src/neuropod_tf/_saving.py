"""Saves what users hold in memory as a SavedModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuropod_core import PackagingError, Problem
from neuropod_core.errors import shown
from neuropod_tf import _keras
from neuropod_tf._artefact import DEFAULT_SIGNATURE
from neuropod_tf._errors import summary
from neuropod_tf._specs import tensor_spec

__all__ = ["save_trackable"]


def save_trackable(
    thing: Any, folder: Path, problem: Problem, mapping: Mapping[str, str], signature: str | None
) -> None:
    """Save `thing` into `folder`, with one signature that serves `problem`.

    Raises
    ------
    PackagingError
        If it has no such function, or the function cannot be traced with the tensors of the problem.
    """
    import tensorflow as tf

    if _keras.is_model(thing):
        _keras.export(thing, folder, problem, mapping)
        return
    if _has_signatures(thing):
        tf.saved_model.save(thing, str(folder), signatures=dict(thing.signatures))
        return
    traced = _traced(_served(thing, signature), problem, mapping)
    root = thing if _is_trackable(thing) else tf.Module()
    if root is not thing:
        root.served, root.captured = traced, list(traced.variables)
    tf.saved_model.save(root, str(folder), signatures={signature or DEFAULT_SIGNATURE: traced})


def _has_signatures(thing: Any) -> bool:
    """Tell whether it is a SavedModel that was loaded with its signatures."""
    signatures = getattr(thing, "signatures", None)
    return isinstance(signatures, Mapping) and bool(signatures)


def _is_trackable(thing: Any) -> bool:
    return hasattr(thing, "_trackable_children") and not _is_function(thing)


def _is_function(value: Any) -> bool:
    from tensorflow.types.experimental import ConcreteFunction, PolymorphicFunction

    return isinstance(value, ConcreteFunction | PolymorphicFunction)


def _served(thing: Any, name: str | None) -> Any:
    if not _is_trackable(thing):
        if callable(thing):
            return thing
        what = f"{shown(thing)} is nothing that TensorFlow can save"
        raise PackagingError(what, remedy="pass a tf.Module or a function")
    for known in (name,) if name else (DEFAULT_SIGNATURE, "__call__"):
        if callable(getattr(thing, known, None)):
            return getattr(thing, known)
    functions = _functions_of(thing)
    if len(functions) == 1 and not name:
        return getattr(thing, functions[0])
    there = ", ".join(map(repr, functions)) or "none"
    what = f"{type(thing).__name__} has no function {name or '__call__'!r} (its functions: {there})"
    raise PackagingError(what, remedy="name one of them by signature")


def _functions_of(thing: Any) -> list[str]:
    of_class = {name: getattr(type(thing), name) for name in dir(type(thing)) if not name.startswith("__")}
    return sorted(name for name, value in {**of_class, **vars(thing)}.items() if _is_function(value))


def _traced(function: Any, problem: Problem, mapping: Mapping[str, str]) -> Any:
    import tensorflow as tf

    if isinstance(function, tf.types.experimental.ConcreteFunction):
        return function
    if not _is_function(function):
        function = tf.function(function)
    if getattr(function, "input_signature", None) is not None:
        return function.get_concrete_function()
    named = {mapping.get(spec.name, spec.name): spec for spec in problem.inputs}
    try:
        return function.get_concrete_function(**{name: tensor_spec(spec, name) for name, spec in named.items()})
    except TypeError as error:
        what = f"the function cannot be traced with the arguments {', '.join(map(repr, named))}: {summary(error)}"
        raise PackagingError(what, remedy="call its arguments as the inputs, or give it an input_signature") from error
