"""Makes exported programs of modules: examples from test data or made up, dynamic shapes from the problem's symbols."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from neuropod_core.backend import Tensors
from neuropod_core.checks import input_check
from neuropod_core.dtypes import DType
from neuropod_core.errors import PackagingError
from neuropod_core.problem import Problem, TensorSpec
from neuropod_torch._errors import reason
from neuropod_torch._exported import interface_of
from neuropod_torch._interface import check_fit
from neuropod_torch._quiet import quiet_torch
from neuropod_torch._tensors import copied

__all__ = ["check_sizes", "examples_for", "exported"]

_REMEDY = "export it yourself and pass program=, or change what torch.export cannot follow"
_LENGTHS = (3, 4, 5, 6, 7)  # Neighbours differ, and the product of many stays small.


def exported(
    module: Any, problem: Problem, test_data: Mapping[str, Any] | None, dynamic_shapes: Any, *, strict: bool
) -> Any:
    """Export a module in evaluation mode, with every symbol and every open dimension of the problem dynamic.

    An example of one row would freeze that dimension, so what varies has a length of two at least in the examples.

    Raises
    ------
    PackagingError
        If torch cannot.
    """
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise PackagingError(f"module is a torch.nn.Module that is not scripted, not {type(module).__name__}")
    examples = examples_for(problem, test_data, _device_of(module))
    args, kwargs, shapes = _arguments(module, problem, examples)
    try:
        with quiet_torch(), _evaluating(module):
            program = torch.export.export(
                _named(module, list(kwargs)), args, kwargs, dynamic_shapes=dynamic_shapes or shapes, strict=strict
            )
    except Exception as error:
        what = f"torch cannot export {type(module).__name__}: {reason(error)}"
        raise PackagingError(what, remedy=_REMEDY) from error
    return program


def check_sizes(program: Any, problem: Problem) -> None:
    """Refuse a program that takes one length only where the problem promises any.

    Raises
    ------
    PackagingError
        If so: the usual reason is an example with one row.
    """
    interface = interface_of(program, problem)
    check_fit(interface, problem)
    ports = {port.name: port for _, port in interface.ports}
    for spec in problem.inputs:
        for axis, (said, length) in enumerate(zip(spec.shape, ports[spec.name].shape, strict=True)):
            if length is not None and not isinstance(said, int):
                what = f"the program takes length {length} only, the problem says {spec.notation}"
                remedy = "export it with dynamic_shapes and an example of two rows or more, or declare the length"
                raise PackagingError(what, f"inputs.{spec.name}[{axis}]", remedy)


# -- examples ---------------------------------------------------------------------------------------------------------


def examples_for(problem: Problem, test_data: Mapping[str, Any] | None, device: Any) -> dict[str, torch.Tensor]:
    """Give an input for each of the problem: its test data, or ones; what varies has a length of two at least."""
    for spec in problem.inputs:
        if spec.dtype is DType.STRING:
            raise PackagingError("exported programs have no strings", f"inputs.{spec.name}", "use another platform")
    given = input_check(problem)(test_data)[0] if test_data is not None else {}
    lengths = _made_up_lengths(problem)
    examples = {}
    for spec in problem.inputs:
        wanted = [
            length if isinstance(length, int) else lengths[spec.name, axis] for axis, length in enumerate(spec.shape)
        ]
        array = _enlarged(given, spec) if spec.name in given else np.ones(wanted, spec.dtype.numpy)
        examples[spec.name] = copied(array).to(device)
    return examples


def _made_up_lengths(problem: Problem) -> dict[tuple[str, int], int]:
    by_symbol: dict[object, int] = {}
    lengths: dict[tuple[str, int], int] = {}
    for spec in problem.inputs:
        for axis, length in enumerate(spec.shape):
            key = length if isinstance(length, str) else (spec.name, axis)
            number = by_symbol.setdefault(key, len(by_symbol))
            lengths[spec.name, axis] = _LENGTHS[number % len(_LENGTHS)]
    return lengths


def _enlarged(given: Tensors, spec: TensorSpec) -> Any:
    """Repeat test data along dimensions that vary and have a length of one; where there is nothing, put zeros."""
    array = given[spec.name]
    for axis, said in enumerate(spec.shape):
        if not isinstance(said, int) and array.shape[axis] < 2:  # noqa: PLR2004 - torch freezes one and none
            shape = [2 if one == axis else length for one, length in enumerate(array.shape)]
            array = np.repeat(array, 2, axis) if array.shape[axis] else np.zeros(shape, array.dtype)
    return array


def _device_of(module: Any) -> Any:
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


# -- arguments --------------------------------------------------------------------------------------------------------


def _arguments(
    module: Any, problem: Problem, examples: Mapping[str, torch.Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Pass the inputs by name, or as one dictionary where ``forward`` has one parameter of another name."""
    shapes = {spec.name: _dynamic(spec) for spec in problem.inputs}
    parameters = inspect.signature(module.forward).parameters
    names = [name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD]
    takes_any = len(names) < len(parameters)
    if len(names) == 1 and not takes_any and names[0] not in examples and _takes_dictionary(parameters[names[0]]):
        return ({name: examples[name] for name in examples},), {}, {names[0]: shapes}
    unknown = [name for name in examples if name not in names and not takes_any]
    if unknown:
        what = f"the module's forward takes {', '.join(names) or 'no argument'}"
        raise PackagingError(what, f"inputs.{unknown[0]}", "call the inputs of the problem as the arguments")
    return (), dict(examples), shapes


def _takes_dictionary(parameter: inspect.Parameter) -> bool:
    said = "" if parameter.annotation is parameter.empty else str(parameter.annotation)
    return not said or re.search(r"(?i)dict|mapping|any", said) is not None


def _dynamic(spec: TensorSpec) -> dict[int, Any]:
    return {axis: torch.export.Dim.DYNAMIC for axis, length in enumerate(spec.shape) if not isinstance(length, int)}


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _named(module: Any, names: Sequence[str]) -> Any:
    """Give a module that returns dictionaries where `module` returns named tuples, whose class a file cannot hold.

    Its arguments are spelt out: torch.export loses the names of those that ``**others`` takes.
    """
    source = module.forward

    class Named(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.train(module.training)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return _as_dictionaries(self.module(*args, **kwargs))

    Named.forward.__signature__ = _signature(source, names)  # type: ignore[attr-defined]  # read by inspect.signature
    return Named()


def _signature(function: Any, names: Sequence[str]) -> inspect.Signature:
    """Give the signature of a method with the arguments that it is called with in place of ``**others``."""
    parameters = dict(inspect.signature(function).parameters)
    others = [name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD]
    kept = [one for name, one in parameters.items() if name not in others]
    spelt_out = [name for name in names if others and name not in parameters]
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return inspect.Signature(
        [this, *kept, *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in spelt_out)]
    )


def _as_dictionaries(result: Any) -> Any:
    if hasattr(result, "_asdict"):
        return dict(result._asdict())
    return result
