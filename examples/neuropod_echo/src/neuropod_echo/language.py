"""The language of echo models, standing in for a framework: each output is an expression of the inputs, in JSON.

``"x"`` is the input of that name, ``["constant", [1, 2]]`` are elements of the output's own type, and
``["add", "x", "y"]``, ``["subtract", ...]`` and ``["multiply", ...]`` work element by element; a scalar fits any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from neuropod_core import Array, DType, Problem, Tensors

Expression = Callable[[Tensors], Array]
OPERATORS: Mapping[str, Callable[..., Any]] = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}
KINDS: Mapping[str, set[type]] = {"O": {str}, "b": {bool}, "i": {int}, "u": {int}}


def compiled(model: object, problem: Problem) -> dict[str, Expression]:
    """Turn the JSON of a model into one function for each output of `problem`."""
    inputs, outputs = ({spec.name: spec.dtype for spec in side} for side in (problem.inputs, problem.outputs))
    if not isinstance(model, dict) or set(model) != set(outputs):
        raise ValueError(f"expected an object with an expression for each of {sorted(outputs)}")
    return {name: expression(model[name], dtype, inputs) for name, dtype in outputs.items()}


def expression(tree: object, dtype: DType, inputs: Mapping[str, DType]) -> Expression:
    """Turn one expression into a function of the inputs; all that it is made of is of type `dtype`."""
    match tree:
        case str(name) if inputs.get(name) is dtype:
            return itemgetter(name)
        case ["constant", value]:
            array = constant(value, dtype)
            return lambda _: array
        case [str(name), left, right] if name in OPERATORS:
            first, second = expression(left, dtype, inputs), expression(right, dtype, inputs)
            return lambda tensors: elementwise(OPERATORS[name], first(tensors), second(tensors))
    raise ValueError(f"{str(tree)[:40]!r} is no {dtype} expression of the inputs")


def constant(value: object, dtype: DType) -> Array:
    """Make an array of JSON values, and convert none that is of another kind."""
    items = np.array(value, object)
    if not set(map(type, items.ravel().tolist())) <= KINDS.get(dtype.numpy.kind, {int, float}):
        raise ValueError(f"{str(value)[:40]!r} holds elements that are no {dtype}")
    return items.astype(dtype.numpy)


def elementwise(function: Callable[..., Any], left: Array, right: Array) -> Array:
    """Combine two arrays of one shape, or an array and a scalar."""
    if left.shape != right.shape and left.ndim and right.ndim:
        raise ValueError(f"shapes {left.shape} and {right.shape} differ")
    return np.asarray(function(left, right), left.dtype)  # NumPy makes scalars of 0-d results.
