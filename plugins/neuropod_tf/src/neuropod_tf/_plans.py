"""One prepared combination of inputs given and outputs asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NoReturn

from neuropod_core import ModelClosedError, Tensors
from neuropod_core.backend import Array
from neuropod_tf._calls import Call

__all__ = ["Plan", "arrays_in_order"]


@dataclass(frozen=True)
class Plan:
    """How to run one selection.

    Parameters
    ----------
    inputs, outputs
        Names, in the order of what `run` takes and gives.
    finish
        What turns a result into an array, for the outputs that may be text or a scalar.
    arrays
        Picks the fed arrays out of the caller's inputs.
    run
        Runs the model.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    finish: tuple[tuple[str, Callable[[Any], Array]], ...]
    arrays: Callable[[Tensors], Sequence[Array]]
    run: Call

    def closed(self) -> Plan:
        """Give the same without the model: whoever runs it learns that the model is closed."""
        return replace(self, run=_refuse)


def arrays_in_order(
    names: tuple[str, ...], changed: Mapping[str, Callable[[Array], Array]]
) -> Callable[[Tensors], Sequence[Array]]:
    """Give a function that picks `names` out of a dictionary, each as `changed` makes it, if it is there."""
    if not changed.keys().isdisjoint(names):
        ways = [(name, changed.get(name, _as_it_is)) for name in names]
        return lambda inputs: [change(inputs[name]) for name, change in ways]
    if len(names) > 1:
        return itemgetter(*names)
    if names:
        (only,) = names
        return lambda inputs: (inputs[only],)
    return lambda _: ()


def _as_it_is(array: Array) -> Array:
    return array


def _refuse(*_arrays: Any) -> NoReturn:
    raise ModelClosedError("the model is closed", remedy="load it again")
