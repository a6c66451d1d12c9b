"""Checks as straight-line code: generated when a model is loaded, it says yes, or hands on to a twin that says why not.

The code holds no text of a package: names and types are bound to constants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np

from neuropod_core._native import KNOWN
from neuropod_core.dtypes import DType
from neuropod_core.problem import Dim, TensorSpec
from neuropod_core.tensors import all_text

__all__ = ["compiled", "fused"]

_MOST_CHECKS = 4096
"""Types and lengths that are checked by generated code; it takes 0.1 ms for each to compile, so no more of them."""

_Form = tuple[tuple[Dim, ...], bool, bool]  # the shape of a spec, whether it is optional, whether it holds text


def compiled(
    specs: tuple[TensorSpec, ...],
    symbols: tuple[str, ...],
    twin: Callable[..., Any],
    *,
    after: bool,
    some: bool = False,
    native: bool = False,
) -> Callable[..., Any]:
    """Generate ``check(tensors)`` for inputs, or ``check(tensors, sizes)`` for outputs (`after` the call).

    Parameters
    ----------
    specs, symbols
        What to enforce; the symbols in the order of the sizes.
    twin
        Called with the same arguments for whatever does not fit.
    some
        Whether others may be there, which are dropped.
    native
        Whether tensors of frameworks fit too, by their attributes; text is NumPy's all the same.
    """
    if sum(1 + len(spec.shape) for spec in specs) > _MOST_CHECKS:
        return twin
    names = {"twin": twin, **_constants(specs)}
    exec(_code(_forms(specs), symbols, after, some, native), names)  # noqa: S102 - the source is made of numbers and of our own words
    check: Callable[..., Any] = names["check"]
    return check


def fused(
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    symbols: tuple[str, ...],
    twins: tuple[Callable[..., Any], Callable[..., Any]],
    execute: Callable[[Any], Any],
) -> Callable[[Any], Any] | None:
    """Generate ``call(tensors)``: both checks of `compiled` around `execute`, without the calls between them.

    None where there is too much to check for generated code.
    """
    if sum(1 + len(spec.shape) for spec in (*inputs, *outputs)) > _MOST_CHECKS:
        return None
    names = {"before": twins[0], "twin": twins[1], "execute": execute, **_constants((*inputs, *outputs))}
    exec(_fused_code(_forms(inputs), _forms(outputs), symbols), names)  # noqa: S102 - as above
    # Taken out of its own globals, so that it goes, and the executor with it, when the model does.
    call: Callable[[Any], Any] = names.pop("call")
    return call


def _constants(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    names: dict[str, Any] = {"ndarray": np.ndarray, "all_text": all_text, "known": KNOWN}
    for place, spec in enumerate(specs):
        names |= {f"name{place}": spec.name, f"dtype{place}": spec.dtype.numpy, f"element{place}": spec.dtype}
    return names


def _forms(specs: tuple[TensorSpec, ...]) -> tuple[_Form, ...]:
    return tuple((spec.shape, spec.optional, spec.dtype is DType.STRING) for spec in specs)


@lru_cache(maxsize=256)
def _code(*key: Any) -> CodeType:
    forms, symbols, after, some, native = key
    return compile(
        _source(forms, symbols, after=after, some=some, native=native), "<checks compiled from a problem>", "exec"
    )


def _source(forms: tuple[_Form, ...], symbols: tuple[str, ...], *, after: bool, some: bool, native: bool) -> str:
    writer = _LengthWriter({symbol: f"size{place}" for place, symbol in enumerate(symbols)}, bound=after)
    sizes = "".join(f"size{place}, " for place in range(len(symbols)))
    optional = sum(form[1] for form in forms)
    # Looking something up changes a `defaultdict`, so other mappings are not even touched.
    lines = ["if type(tensors) is not dict:", "    raise TypeError"]
    lines += [f"count = {len(forms) - optional}"] if optional else []
    if sizes:
        lines += [f"{sizes}= sizes" if after else f"{sizes.rstrip(', ').replace(', ', ' = ')} = None"]
    for place, form in enumerate(forms):
        lines += _tensor_source(place, form, writer, native=native)
    if some:
        kept = ", ".join(f"name{place}: tensors[name{place}]" for place in range(len(forms)))
        lines += [f"return tensors if len(tensors) == {len(forms)} else {{{kept}}}"]
    else:
        lines += [f"if len(tensors) == {'count' if optional else len(forms)}:"]
        lines += ["    return tensors" if after else f"    return tensors, ({sizes})"]
    body = ["try:", *(f"    {line}" for line in lines), "except (KeyError, ValueError, TypeError, AttributeError):"]
    body += ["    pass", f"return twin(tensors{', sizes' if after else ''})"]
    return f"def check(tensors{', sizes' if after else ''}):\n" + "\n".join(f"    {line}" for line in body)


@lru_cache(maxsize=256)
def _fused_code(*key: Any) -> CodeType:
    return compile(_fused_source(*key), "<call compiled from a problem>", "exec")


def _fused_source(inputs: tuple[_Form, ...], outputs: tuple[_Form, ...], symbols: tuple[str, ...]) -> str:
    # One writer for both sides: what the inputs are sure to bind is compared after the call without another look.
    writer = _LengthWriter({symbol: f"size{place}" for place, symbol in enumerate(symbols)}, bound=False)
    sizes = "".join(f"size{place}, " for place in range(len(symbols)))
    unbound = [f"{sizes.rstrip(', ').replace(', ', ' = ')} = None"] if sizes else []
    again = [f"    {sizes}= sizes"] if sizes else []
    before = [*unbound, *_checked(inputs, 0, writer), "fits = True"]
    after = [*_checked(outputs, len(inputs), writer), "return tensors"]
    body = [
        *("try:", *(f"    {line}" for line in before), f"{_MISFIT}", "    fits = False"),
        *("if not fits:", "    tensors, sizes = before(tensors)", *again),
        "tensors = execute(tensors)",
        *("try:", *(f"    {line}" for line in after), f"{_MISFIT}", "    pass"),
        f"return twin(tensors, ({sizes}))",
    ]
    return "def call(tensors):\n" + "\n".join(f"    {line}" for line in body)


_MISFIT = "except (KeyError, ValueError, TypeError, AttributeError):"


def _checked(forms: tuple[_Form, ...], first: int, writer: _LengthWriter) -> list[str]:
    """Write what raises for `tensors` that do not fit; the specs are those from number `first`."""
    optional = sum(form[1] for form in forms)
    # Looking something up changes a `defaultdict`, so other mappings are not even touched.
    lines = ["if type(tensors) is not dict:", "    raise TypeError"]
    lines += [f"count = {len(forms) - optional}"] if optional else []
    for place, form in enumerate(forms, first):
        lines += _tensor_source(place, form, writer, native=False)
    return [*lines, f"if len(tensors) != {'count' if optional else len(forms)}:", "    raise ValueError"]


def _tensor_source(place: int, form: _Form, writer: _LengthWriter, *, native: bool) -> list[str]:
    shape, optional, text = form
    wrong = f"type(array) is not ndarray or array.dtype is not dtype{place}" + " or not all_text(array)" * text
    if native and not text:
        other = f"known[type(array)][array.dtype] is not element{place}"
        wrong = f"array.dtype is not dtype{place} if type(array) is ndarray else {other}"
    lengths = [f"length{axis}" for axis in range(len(shape))]
    lines = [f"if {wrong}:", "    raise ValueError"]
    lines += [f"{', '.join(lengths)}, = array.shape"] if lengths else ["if array.shape:", "    raise ValueError"]
    for length, dim in zip(lengths, shape, strict=True):
        lines += writer.lines(length, dim, optional=optional)
    if optional:
        lines = ["count += 1", *lines]
        return [f"array = tensors.get(name{place})", "if array is not None:", *(f"    {line}" for line in lines)]
    return [f"array = tensors[name{place}]", *lines]


class _LengthWriter:
    """Writes the check of one dimension, knowing which symbols are bound when the code gets there."""

    def __init__(self, variables: dict[str, str], *, bound: bool) -> None:
        self._variables = variables
        self._sure: set[str] = set()
        self._possible: set[str] = set(variables) if bound else set()

    def lines(self, length: str, dim: Dim, *, optional: bool) -> list[str]:
        if dim is None:
            return []
        if isinstance(dim, int):
            return [f"if {length} != {dim}:", "    raise ValueError"]
        variable, before = self._variables[dim], (dim in self._sure, dim in self._possible)
        (self._possible if optional else self._sure).add(dim)
        match before:
            case (True, _):
                return [f"if {length} != {variable}:", "    raise ValueError"]
            case (False, True):
                return [
                    f"if {variable} is None:",
                    f"    {variable} = {length}",
                    f"elif {length} != {variable}:",
                    "    raise ValueError",
                ]
        return [f"{variable} = {length}"]
