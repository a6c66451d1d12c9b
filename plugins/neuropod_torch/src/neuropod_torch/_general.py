"""Calls that the straight path does not cover: inputs left out, outputs that only a call tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from neuropod_core.backend import NativeTensors, Tensors
from neuropod_core.errors import InferenceError
from neuropod_core.problem import Problem
from neuropod_torch._program import Program
from neuropod_torch._tensors import Converter, owned, owned_result

__all__ = ["GeneralCall"]


class GeneralCall:
    """Calls ``forward`` itself, with the inputs that are there, and copies whatever it returns.

    Parameters
    ----------
    program
        The module.
    problem
        What it solves.
    converters
        Input name -> what makes of an array what the module takes.
    """

    def __init__(self, program: Program, problem: Problem, converters: Mapping[str, Converter]) -> None:
        self._forward = program.forward
        self._takes_dict = bool(program.signature.dict_type)
        self._needed = () if self._takes_dict else program.signature.needed
        self._known = {spec.name for spec in problem.inputs} if self._takes_dict else set(program.signature.arguments)
        self._left_out = {} if self._takes_dict else dict.fromkeys(program.signature.nullable)
        self._converters = converters
        self._outputs = [spec.name for spec in problem.outputs]

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run the model once."""
        with torch.inference_mode():
            given = self._given(inputs)
            result = self._forward(given) if self._takes_dict else self._forward(**given)
            return {name: owned(value, name) for name, value in self._named(result) if value is not None}

    def native(self, inputs: NativeTensors) -> NativeTensors:
        """Run the model once, and leave results as tensors."""
        with torch.no_grad():
            given = self._given(inputs)
            result = self._forward(given) if self._takes_dict else self._forward(**given)
            return {name: owned_result(value, name) for name, value in self._named(result) if value is not None}

    def _given(self, inputs: NativeTensors) -> dict[str, Any]:
        for name in self._needed:
            if name not in inputs:
                what = "the model needs this input, and the call leaves it out"
                raise InferenceError(what, f"inputs.{name}", "pass it, or give the argument a default of None")
        for name in inputs.keys() - self._known:
            what = "the model does not take this input, though its problem has it"
            raise InferenceError(what, f"inputs.{name}", "leave it out")
        return self._left_out | {
            name: convert(inputs[name]) for name, convert in self._converters.items() if name in inputs
        }

    def _named(self, result: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(result, dict):
            yield from result.items()
        elif hasattr(result, "_asdict"):
            yield from result._asdict().items()
        elif isinstance(result, tuple) and all(isinstance(part, dict) for part in result):
            yield from _merged(result)
        elif len(self._outputs) == 1:
            yield self._outputs[0], result
        else:
            what = f"the model returned {type(result).__name__}, the problem has {len(self._outputs)} outputs"
            raise InferenceError(what, remedy="return a Dict or a NamedTuple of the outputs")


def _merged(parts: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for part in parts:
        for name, value in part.items():
            if name in seen:
                what = "the model returned it in two of the dictionaries of one tuple"
                raise InferenceError(what, f"outputs.{name}", "return each output once")
            seen.add(name)
            yield name, value
