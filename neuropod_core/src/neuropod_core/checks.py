"""A problem compiled to checks: straight-line code that says yes, and a slower twin that says why not.

The straight-line half is generated when a model is loaded and holds no text of the package: names and types are bound
to constants. It takes plain dictionaries of arrays that fit exactly. Everything else goes to the twin, which reads the
specs: it converts what may be converted and raises `TensorMismatchError` for the rest. Where both take a call they
agree; the tests prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import CodeType
from typing import Any, Literal

import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import OptionError, TensorMismatchError, shown
from neuropod_core.problem import Dim, Problem, TensorSpec
from neuropod_core.tensors import all_text, as_array, as_text, describe, why_no_array

__all__ = ["Cast", "InputCheck", "OutputCheck", "Sizes", "input_check", "output_check"]

Cast = Literal["no", "safe", "same_kind"]
"""Whether a wrong element type is converted: never, where `numpy.can_cast` calls it safe, or within a kind."""

Sizes = tuple[Any, ...]
"""The values of a problem's symbols in one call, in the order of `Problem`; None where no tensor bound one."""

InputCheck = Callable[[Mapping[str, object]], tuple[Tensors, Sizes]]
"""Gives the inputs of a call as arrays, with the sizes that they bind, or raises."""

OutputCheck = Callable[[Mapping[str, object], Sizes], Tensors]
"""Gives the results of a call that were asked for, or raises."""

_CASTS = ("no", "safe", "same_kind")


def input_check(problem: Problem, cast: Cast = "no") -> InputCheck:
    """Compile the check of a call's inputs: it gives them as arrays, with the sizes that they bind.

    Parameters
    ----------
    problem
        The problem to enforce.
    cast
        Which wrong element types are converted instead of refused.

    Raises
    ------
    OptionError
        If `cast` is none of the three. The check itself raises `TensorMismatchError`.
    """
    if cast not in _CASTS:
        raise OptionError(f"cast is one of {', '.join(map(repr, _CASTS))}, not {shown(cast)}")
    symbols = _symbols(problem)
    return _compiled(problem.inputs, symbols, _InputTwin(problem, symbols, cast), after=False, some=False)


def output_check(problem: Problem, names: Iterable[str] | None = None) -> OutputCheck:
    """Compile the check of a call's results: it gives those that were asked for.

    Parameters
    ----------
    problem
        The problem to enforce.
    names
        The outputs that were asked for; None for all, of which optional ones may be missing.

    Raises
    ------
    TensorMismatchError
        If the problem has no output of such a name. The check itself raises it if the model broke its promise.
    """
    symbols = _symbols(problem)
    kept = problem.outputs if names is None else _asked_for(problem, names)
    specs = tuple(spec if problem.ties_outputs else _untied(spec) for spec in kept)
    some = names is not None
    return _compiled(specs, symbols, _OutputTwin(specs, symbols, some=some), after=True, some=some)


def _asked_for(problem: Problem, names: Iterable[str]) -> tuple[TensorSpec, ...]:
    known = {spec.name: spec for spec in problem.outputs}
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise TensorMismatchError(f"outputs.{name}", f"one of the outputs ({there})", shown(name))
    return tuple(replace(known[name], optional=False) for name in dict.fromkeys(names))


def _symbols(problem: Problem) -> tuple[str, ...]:
    specs = problem.inputs + (problem.outputs if problem.ties_outputs else ())
    return tuple(dict.fromkeys(symbol for spec in specs for symbol in spec.symbols))


def _untied(spec: TensorSpec) -> TensorSpec:
    shape = tuple(None if isinstance(dim, str) else dim for dim in spec.shape)
    return replace(spec, shape=shape)


# -- the twins that say why not ---------------------------------------------------------------------------------------


class _InputTwin:
    def __init__(self, problem: Problem, symbols: tuple[str, ...], cast: Cast) -> None:
        self._specs = {spec.name: spec for spec in problem.inputs}
        self._symbols, self._cast = symbols, cast

    def __call__(self, inputs: object) -> tuple[Tensors, Sizes]:
        if not isinstance(inputs, Mapping):
            raise TensorMismatchError("inputs", "tensors by name", describe(inputs), "pass a dictionary")
        _refuse_unknown("inputs", inputs, self._specs)
        sizes: dict[str, int] = {}
        arrays = {}
        for name, spec in self._specs.items():
            if name in inputs:
                arrays[name] = _converted(inputs[name], spec, self._cast)
                _bind(f"inputs.{name}", spec, arrays[name], sizes)
            elif not spec.optional:
                raise TensorMismatchError(f"inputs.{name}", spec.notation, "nothing", "pass it, it is required")
        return arrays, tuple(sizes.get(symbol) for symbol in self._symbols)


class _OutputTwin:
    def __init__(self, specs: Iterable[TensorSpec], symbols: tuple[str, ...], *, some: bool) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._symbols, self._some = symbols, some

    def __call__(self, results: object, sizes: Sizes) -> Tensors:
        if not isinstance(results, Mapping):
            raise TensorMismatchError("outputs", "tensors by name", describe(results))
        if not self._some:
            _refuse_unknown("outputs", results, self._specs)
        bound = {symbol: size for symbol, size in zip(self._symbols, sizes, strict=True) if size is not None}
        arrays = {}
        for name, spec in self._specs.items():
            if name in results:
                arrays[name] = _taken(f"outputs.{name}", results[name], spec)
                _bind(f"outputs.{name}", spec, arrays[name], bound)
            elif not spec.optional:
                raise TensorMismatchError(f"outputs.{name}", spec.notation, "nothing", "the model did not return it")
        return arrays


def _refuse_unknown(side: str, given: Mapping[Any, Any], specs: Mapping[str, TensorSpec]) -> None:
    for name in given:
        if name not in specs:
            there = ", ".join(specs) or "none"
            where = f"{side}.{name}" if isinstance(name, str) else side
            raise TensorMismatchError(where, f"one of the {side} ({there})", shown(name), "leave it out or rename it")


def _converted(value: object, spec: TensorSpec, cast: Cast) -> Array:
    path = f"inputs.{spec.name}"
    array = as_array(value)
    if array is None:
        dtype = "object" if spec.dtype is DType.STRING else spec.dtype.value
        remedy = why_no_array(value) or f"pass a NumPy array, such as np.asarray(value, {dtype!r})"
        raise TensorMismatchError(path, spec.notation, describe(value), remedy)
    if spec.dtype is DType.STRING:
        return _text(path, array, spec)
    wanted = spec.dtype.numpy
    if array.dtype == wanted:
        return _named(array, wanted)
    if array.dtype.newbyteorder("=") == wanted or (cast != "no" and np.can_cast(array.dtype, wanted, cast)):
        return array.astype(wanted)
    remedy = f"convert it by .astype({spec.dtype.value!r})"
    raise TensorMismatchError(path, spec.notation, describe(array), remedy)


def _taken(path: str, value: object, spec: TensorSpec) -> Array:
    array = as_array(value)
    if array is None:
        raise TensorMismatchError(path, spec.notation, describe(value))
    if spec.dtype is DType.STRING:
        return _text(path, array, spec)
    if array.dtype != spec.dtype.numpy:
        raise TensorMismatchError(path, spec.notation, describe(array))
    return _named(array, spec.dtype.numpy)


def _named(array: Array, dtype: np.dtype[Any]) -> Array:
    """Give the type that goes by its name: C has two integers of 64 bits, frameworks may know one only."""
    return array if array.dtype is dtype else array.view(dtype)


def _text(path: str, array: Array, spec: TensorSpec) -> Array:
    text = as_text(array)
    if text is None:
        remedy = "strings are arrays of str that can be written as UTF-8"
        raise TensorMismatchError(path, spec.notation, describe(array), remedy)
    return text


def _bind(path: str, spec: TensorSpec, array: Array, sizes: dict[str, int]) -> None:
    shape = array.shape
    if len(shape) != len(spec.shape):
        expected = f"{spec.notation} ({len(spec.shape)} dimensions)"
        raise TensorMismatchError(path, expected, f"{describe(array)} ({len(shape)} dimensions)")
    for dim, length in zip(spec.shape, shape, strict=True):
        if not _agrees(dim, length, sizes):
            bound = ", ".join(f"{symbol}={sizes[symbol]}" for symbol in spec.symbols if symbol in sizes)
            expected = f"{spec.notation} with {bound}" if bound else spec.notation
            raise TensorMismatchError(path, expected, describe(array))


def _agrees(dim: Dim, length: int, sizes: dict[str, int]) -> bool:
    if isinstance(dim, str):
        return sizes.setdefault(dim, length) == length
    return dim is None or dim == length


# -- the straight-line half -------------------------------------------------------------------------------------------

_MOST_CHECKS = 4096
"""Types and lengths that are checked by generated code; it takes 0.1 ms for each to compile, so no more of them."""

_Form = tuple[tuple[Dim, ...], bool, bool]  # the shape of a spec, whether it is optional, whether it holds text


def _compiled(
    specs: tuple[TensorSpec, ...], symbols: tuple[str, ...], twin: Callable[..., Any], *, after: bool, some: bool
) -> Callable[..., Any]:
    if sum(1 + len(spec.shape) for spec in specs) > _MOST_CHECKS:
        return twin
    forms = tuple((spec.shape, spec.optional, spec.dtype is DType.STRING) for spec in specs)
    names: dict[str, Any] = {"ndarray": np.ndarray, "all_text": all_text, "twin": twin}
    for place, spec in enumerate(specs):
        names[f"name{place}"], names[f"dtype{place}"] = spec.name, spec.dtype.numpy
    exec(_code(forms, symbols, after, some), names)  # noqa: S102 - the source is made of numbers and of our own words
    check: Callable[..., Any] = names["check"]
    return check


@lru_cache(maxsize=256)
def _code(*key: Any) -> CodeType:
    forms, symbols, after, some = key
    return compile(_source(forms, symbols, after=after, some=some), "<checks compiled from a problem>", "exec")


def _source(forms: tuple[_Form, ...], symbols: tuple[str, ...], *, after: bool, some: bool) -> str:
    """Write ``check(tensors)`` for inputs, or ``check(tensors, sizes)`` for outputs (`after` the call).

    Where `some` outputs were asked for, others may be there and are dropped.
    """
    writer = _LengthWriter({symbol: f"size{place}" for place, symbol in enumerate(symbols)}, bound=after)
    sizes = "".join(f"size{place}, " for place in range(len(symbols)))
    optional = sum(form[1] for form in forms)
    # Looking something up changes a `defaultdict`, so other mappings are not even touched.
    lines = ["if type(tensors) is not dict:", "    raise TypeError"]
    lines += [f"count = {len(forms) - optional}"] if optional else []
    if sizes:
        lines += [f"{sizes}= sizes" if after else f"{sizes.rstrip(', ').replace(', ', ' = ')} = None"]
    for place, form in enumerate(forms):
        lines += _tensor_source(place, form, writer)
    if some:
        kept = ", ".join(f"name{place}: tensors[name{place}]" for place in range(len(forms)))
        lines += [f"return tensors if len(tensors) == {len(forms)} else {{{kept}}}"]
    else:
        lines += [f"if len(tensors) == {'count' if optional else len(forms)}:"]
        lines += ["    return tensors" if after else f"    return tensors, ({sizes})"]
    body = ["try:", *(f"    {line}" for line in lines), "except (KeyError, ValueError, TypeError, AttributeError):"]
    body += ["    pass", f"return twin(tensors{', sizes' if after else ''})"]
    return f"def check(tensors{', sizes' if after else ''}):\n" + "\n".join(f"    {line}" for line in body)


def _tensor_source(place: int, form: _Form, writer: _LengthWriter) -> list[str]:
    shape, optional, text = form
    wrong = f"type(array) is not ndarray or array.dtype is not dtype{place}" + " or not all_text(array)" * text
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
