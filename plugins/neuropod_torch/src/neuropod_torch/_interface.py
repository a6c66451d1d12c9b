"""What a flat program (exported or compiled) takes and gives, by name, and which sizes it was made for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelLoadError, PackageFormatError, shown
from neuropod_core.problem import Problem, TensorSpec

__all__ = ["Interface", "Port", "check_fit", "is_condition", "named_inputs", "named_outputs", "without_implied"]

_LONGEST_CONDITION = 1000
_REMEDY = "package it with a problem that fits, or export a module that does"
_SIZE = re.compile(r"s(\d+)\[(\d+)\]")
_TOKEN = re.compile(r"s\d{1,4}\[\d{1,3}\]|\d+|and|or|not|True|False|[A-Z][A-Za-z]*(?=\()|[-+*/%<>=!(), ]")


@dataclass(frozen=True)
class Port:
    """One tensor that a program takes.

    Parameters
    ----------
    name
        What a problem calls it.
    dtype
        The element type, as torch and problems name it.
    shape
        A length, or None for one that varies, for each dimension.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Interface:
    """What a program takes and gives.

    Parameters
    ----------
    inputs
        In the order of the flat program; the value itself where it takes a constant that was fixed when it was made.
    outputs
        Output name -> its place among the results.
    conditions
        What has to hold of the sizes, in Python: ``s0[1] >= 3`` speaks of dimension 1 of input 0.
    """

    inputs: tuple[Port | object, ...]
    outputs: Mapping[str, int]
    conditions: tuple[str, ...] = ()

    @property
    def ports(self) -> Iterator[tuple[int, Port]]:
        """The inputs that are tensors, with their places."""
        return ((index, port) for index, port in enumerate(self.inputs) if isinstance(port, Port))

    def told(self, condition: str) -> str:
        """Say a condition for people: by the names of inputs."""

        def named(size: re.Match[str]) -> str:
            port = self.inputs[int(size[1])]
            return f"{port.name}[{size[2]}]" if isinstance(port, Port) else size[0]

        return _SIZE.sub(named, condition)

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON object."""
        inputs = [asdict(one) if isinstance(one, Port) else {"value": one} for one in self.inputs]
        return {"inputs": inputs, "outputs": dict(self.outputs), "conditions": list(self.conditions)}

    @classmethod
    def from_json(cls, value: object, at: str) -> Interface:
        """Read what `to_json` gave.

        Raises
        ------
        PackageFormatError
            If it is anything else.
        """
        try:
            fields = dict(value)  # type: ignore[call-overload]  # whatever it is
            inputs = tuple(_read_input(one) for one in fields["inputs"])
            outputs = {str(name): _whole(place) for name, place in fields["outputs"].items()}
            conditions = tuple(_read_condition(one, len(inputs)) for one in fields["conditions"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PackageFormatError(f"what the program takes is not told: {error!s:.80}", at) from error
        return cls(inputs, outputs, conditions)


def _read_input(fields: Any) -> Port | object:
    if "value" in fields:
        value: object = fields["value"]
        return value
    shape = tuple(length if length is None else _whole(length) for length in fields["shape"])
    return Port(str(fields["name"]), DType(fields["dtype"]).value, shape)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{shown(value)} is no length")
    return value


def _read_condition(text: object, inputs: int) -> str:
    if not isinstance(text, str) or not is_condition(text):
        raise ValueError(f"{shown(text)} is no condition on sizes")
    if any(int(size[1]) >= inputs for size in _SIZE.finditer(text)):
        raise ValueError(f"{shown(text)} speaks of an input that is not there")
    return text


def is_condition(text: str) -> bool:
    """Tell whether a text compares sizes and numbers, and does nothing else."""
    return len(text) <= _LONGEST_CONDITION and not _TOKEN.sub("", text)


# -- names ------------------------------------------------------------------------------------------------------------


def named_inputs(tree: tuple[Sequence[Any], Mapping[str, Any]], arguments: Sequence[str]) -> dict[int, str]:
    """Name each input by its place: a keyword, a key of a dictionary, or the argument's name.

    Parameters
    ----------
    tree
        The positional and the keyword arguments, with places instead of tensors.
    arguments
        Names of the positional arguments, as far as they are known.
    """
    args, kwargs = tree
    names = [*arguments, *(f"arg{index}" for index in range(len(arguments), len(args)))]
    return {
        place: name
        for key, part in (*zip(names, args, strict=False), *kwargs.items())
        for place, name in _leaves(str(key), part)
    }


def _leaves(name: str, part: Any) -> Iterator[tuple[int, str]]:
    if isinstance(part, Mapping):
        for key, inner in part.items():
            yield from _leaves(str(key), inner)
    elif isinstance(part, list | tuple):
        for index, inner in enumerate(part):
            yield from _leaves(f"{name}_{index}", inner)
    elif part is not None:
        yield part, name


def named_outputs(tree: Any, problem: Problem) -> dict[str, int]:
    """Find the place of each output: by key, by field, in the order of the problem, or as the only one.

    Raises
    ------
    ModelLoadError
        If an output of the problem is not among them.
    """
    wanted = [spec.name for spec in problem.outputs]
    found = _found_outputs(tree, wanted)
    for name in wanted:
        if name not in found:
            there = ", ".join(map(str, found)) or _told_tree(tree)
            raise ModelLoadError(f"the program returns {there}", f"outputs.{name}", _REMEDY)
    return {name: found[name] for name in wanted}


def _found_outputs(tree: Any, wanted: list[str]) -> dict[str, int]:
    if isinstance(tree, Mapping):
        return {str(key): place for key, place in tree.items() if isinstance(place, int)}
    if hasattr(tree, "_asdict"):
        return _found_outputs(tree._asdict(), wanted)
    if not isinstance(tree, list | tuple):
        return {wanted[0]: tree} if len(wanted) == 1 and isinstance(tree, int) else {}
    if tree and all(isinstance(part, Mapping) for part in tree):
        return {name: place for part in tree for name, place in _found_outputs(part, wanted).items()}
    if len(tree) == len(wanted) and all(isinstance(part, int) for part in tree):
        return dict(zip(wanted, tree, strict=True))
    return {}


def _told_tree(tree: Any) -> str:
    return f"{len(tree)} values without names" if isinstance(tree, list | tuple) else "one value"


# -- problems ---------------------------------------------------------------------------------------------------------


def check_fit(interface: Interface, problem: Problem) -> None:
    """Compare a program with the problem that it solves.

    Raises
    ------
    ModelLoadError
        If it does not take the inputs of the problem.
    """
    for spec in (*problem.inputs, *problem.outputs):
        if spec.dtype is DType.STRING:
            raise ModelLoadError("exported programs have no strings", spec.name, "use another platform for text")
    ports = {port.name: port for _, port in interface.ports}
    for spec in problem.inputs:
        if spec.name not in ports:
            raise ModelLoadError(f"the program takes {', '.join(ports) or 'nothing'}", f"inputs.{spec.name}", _REMEDY)
        _check_port(ports[spec.name], spec)
    for name in sorted(ports.keys() - {spec.name for spec in problem.inputs}):
        raise ModelLoadError(f"the program needs {name!r}, which is no input of the problem", remedy=_REMEDY)


def _check_port(port: Port, spec: TensorSpec) -> None:
    fits = port.dtype == spec.dtype.value and len(port.shape) == len(spec.shape)
    if not fits or not all(map(_may_be, spec.shape, port.shape)):
        lengths = ", ".join("?" if length is None else str(length) for length in port.shape)
        what = f"the program takes {port.dtype}[{lengths}], the problem says {spec.notation}"
        raise ModelLoadError(what, f"inputs.{spec.name}", _REMEDY)


def without_implied(interface: Interface, problem: Problem) -> Interface:
    """Drop the conditions that hold for every input that solves the problem: they were checked before."""
    specs = {spec.name: spec for spec in problem.inputs}
    said = {
        f"s{place}[{axis}]": length
        for place, port in interface.ports
        for axis, length in enumerate(specs[port.name].shape)
    }
    kept = tuple(condition for condition in interface.conditions if not _is_implied(condition, said))
    return replace(interface, conditions=kept)


def _is_implied(condition: str, said: Mapping[str, object]) -> bool:
    left, equal, right = condition.partition(" == ")
    if not equal or left not in said:
        return False
    length = said[left]
    return str(length) == right if isinstance(length, int) else length is not None and said.get(right) == length


def _may_be(said: object, length: int | None) -> bool:
    return length is None or not isinstance(said, int) or said == length
