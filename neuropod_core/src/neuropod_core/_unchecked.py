"""What stands in for the checks where a caller turned them off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neuropod_core.backend import Tensors
from neuropod_core.checks import OutputCheck, Sizes
from neuropod_core.problem import Problem

__all__ = ["check_of_some", "unchecked_call", "unchecked_inputs"]


def unchecked_inputs(inputs: Mapping[str, Any]) -> tuple[Tensors, Sizes]:
    """Take inputs as they are."""
    return dict(inputs), ()


def unchecked_call(execute: Callable[[Tensors], Tensors]) -> Callable[[Mapping[str, Any]], Tensors]:
    """Make a call of an executor's `infer` that checks nothing."""
    return lambda inputs: dict(execute(dict(inputs)))


def _unchecked_outputs(results: Mapping[str, Any], _: Sizes) -> Tensors:
    return dict(results)


def check_of_some(
    problem: Problem, made: Callable[..., OutputCheck], names: tuple[str, ...] | None, *, checks: bool
) -> OutputCheck:
    """Give the check of some outputs, by what `made` makes of them, or what keeps those alone."""
    if checks:
        return made(problem, names)
    return _unchecked_outputs if names is None else _Only(names)


class _Only:
    """Stands in for the check of some outputs where checks are off: keeps those that were asked for."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, results: Mapping[str, Any], _: Sizes) -> Tensors:
        return {name: results[name] for name in self._names}
