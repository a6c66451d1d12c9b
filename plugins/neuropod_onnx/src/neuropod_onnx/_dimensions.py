"""Free dimensions of a model, fixed by the names that the problem gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import OptionError, shown
from neuropod_core.problem import Problem
from neuropod_onnx.contents import Contents

__all__ = ["fixed_dimensions"]

_OPTION = "free_dimensions"
_LARGEST = 2**63 - 1


def fixed_dimensions(
    options: LoadOptions, problem: Problem, contents: Contents, mapping: Mapping[str, str]
) -> dict[str, int]:
    """Give the lengths that option ``free_dimensions`` asks for, by the model's names of the dimensions.

    A symbol of the problem stands for every name that the model gives to the same dimension of an input.

    Raises
    ------
    OptionError
        If the option is no table of symbols to lengths, or the model has no name for such a dimension.
    """
    given = options.values.get(_OPTION, {})
    if not isinstance(given, Mapping) or not all(_is_length(length) for length in given.values()):
        raise OptionError(f"option {_OPTION!r} is a table of symbols to lengths, not {shown(given)}")
    known: dict[str, set[str]] = {}
    for symbol, name in _named(problem, contents, mapping):
        known.setdefault(symbol, set()).add(name)
    fixed: dict[str, int] = {}
    for symbol, length in given.items():
        for name in _names_of(symbol, known):
            if fixed.setdefault(name, length) != length:
                what = f"the model's dimension {shown(name)} cannot be {fixed[name]} and {length}"
                raise OptionError(what, at=_OPTION)
    return fixed


def _is_length(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


def _named(problem: Problem, contents: Contents, mapping: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for spec in problem.inputs:
        declared = contents.inputs.get(mapping.get(spec.name, spec.name))
        for ours, theirs in zip(spec.shape, (declared and declared.shape) or (), strict=False):
            if isinstance(ours, str) and isinstance(theirs, str):
                yield ours, theirs


def _names_of(symbol: object, known: Mapping[str, set[str]]) -> set[str]:
    if isinstance(symbol, str) and symbol in known:
        return known[symbol]
    there = ", ".join(sorted(known)) or "none"
    raise OptionError(f"{shown(symbol)} is no symbol with a name in the model (those are {there})", at=_OPTION)
