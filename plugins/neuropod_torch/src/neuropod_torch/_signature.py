"""How a TorchScript module wants to be called, and what it gives back: read from its schema once, at load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelLoadError
from neuropod_core.problem import Problem, TensorSpec

__all__ = ["Signature", "read_signature"]

_REMEDY = "package it with a problem that fits, or wrap the module in one that does"


@dataclass(frozen=True)
class Signature:
    """The calling convention of one module for one problem.

    Parameters
    ----------
    dict_type
        The type of the one Dict that takes all inputs; empty if inputs are arguments of their own.
    dict_values
        The type of its values.
    arguments
        Argument name -> its type, where inputs are arguments of their own.
    paths
        Output name -> TorchScript expression that takes it from the result ``r``; empty where only a call tells which
        outputs there are.
    needed
        Arguments that every call has to give.
    nullable
        Arguments without a default that take None.
    """

    dict_type: str = ""
    dict_values: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()


def read_signature(module: Any, problem: Problem) -> Signature:
    """Read the schema of ``forward`` and compare it with the problem.

    Raises
    ------
    ModelLoadError
        If it cannot be called with the inputs of the problem, or cannot return its outputs.
    """
    schema = module.forward.schema
    _check_strings(problem)
    arguments = {argument.name: argument for argument in schema.arguments[1:]}
    paths = _paths(module, schema.returns[0].type, problem)
    (only, *more) = (*arguments.values(), None)
    if only is not None and not any(more) and only.type.kind() == "DictType":
        return Signature(only.type.annotation_str, only.type.getValueType().annotation_str, paths=paths)
    _check_arguments(arguments, problem)
    types = {name: argument.type.annotation_str for name, argument in arguments.items()}
    bare = [name for name, argument in arguments.items() if not argument.has_default_value()]
    nullable = tuple(name for name in bare if arguments[name].type.kind() == "OptionalType")
    needed = tuple(name for name in bare if name not in nullable)
    return Signature(arguments=types, paths=paths, needed=needed, nullable=nullable)


def _check_strings(problem: Problem) -> None:
    for side, specs in (("inputs", problem.inputs), ("outputs", problem.outputs)):
        for spec in specs:
            if spec.dtype is DType.STRING and len(spec.shape) != 1:
                what = f"TorchScript has strings as List[str], of one dimension, the problem says {spec.notation}"
                raise ModelLoadError(what, f"{side}.{spec.name}", "declare a shape of one dimension")


def _check_arguments(arguments: Mapping[str, Any], problem: Problem) -> None:
    known = ", ".join(arguments) or "no argument"
    for spec in problem.inputs:
        if spec.name not in arguments and spec.optional:
            continue  # The original runs such packages; a call that passes it fails.
        if spec.name not in arguments:
            raise ModelLoadError(f"the module's forward takes {known}", f"inputs.{spec.name}", _REMEDY)
        _check_type(arguments[spec.name].type, spec)
    for name in sorted(arguments.keys() - {spec.name for spec in problem.inputs}):
        if not arguments[name].has_default_value() and arguments[name].type.kind() != "OptionalType":
            raise ModelLoadError(
                f"the module's forward needs {name!r}, which is no input of the problem", remedy=_REMEDY
            )


def _check_type(kind: Any, spec: TensorSpec) -> None:
    wanted = "List[str]" if spec.dtype is DType.STRING else "Tensor"
    if not re.search(rf"(?<!\w){re.escape(wanted)}|(?<!\w)Any\Z", kind.annotation_str) or _is_other_container(kind):
        what = f"the module's forward takes {kind.annotation_str}, the problem says {spec.notation}"
        raise ModelLoadError(what, f"inputs.{spec.name}", _REMEDY)


def _is_other_container(kind: Any) -> bool:
    if kind.kind() == "OptionalType":
        return _is_other_container(kind.containedTypes()[0])
    return kind.kind() in ("DictType", "TupleType") or (
        kind.kind() == "ListType" and kind.annotation_str != "List[str]"
    )


def _paths(module: Any, returned: Any, problem: Problem) -> dict[str, str]:
    wanted = [spec.name for spec in problem.outputs]
    found = _all_paths(module, returned, wanted)
    if found is None:
        what = f"the module's forward returns {returned.annotation_str}, the problem has {len(wanted)} outputs"
        remedy = "return a Dict or a NamedTuple of the outputs, or for one output a Tensor or a List[str]"
        raise ModelLoadError(what, remedy=remedy)
    return {name: found[name] for name in wanted} if wanted and found.keys() >= set(wanted) else {}


def _all_paths(module: Any, returned: Any, wanted: list[str]) -> dict[str, str] | None:
    """Give where each output lies; nothing where only a call tells; None where no call can return them."""
    if returned.kind() == "DictType" and not _is_output(returned.getValueType()):
        return None
    if _may_be_none(returned) or returned.kind() in ("AnyType", "UnionType"):
        return {}
    if returned.kind() in ("DictType", "TupleType"):
        return _paths_in_parts(module, returned)
    return {wanted[0]: "r"} if _is_output(returned) and len(wanted) == 1 else None


def _paths_in_parts(module: Any, returned: Any) -> dict[str, str] | None:
    if returned.kind() == "DictType":
        return _paths_in_dicts(module, ["r"])
    if fields := _fields(returned):
        return {name: f"r.{name}" for name in fields}
    elements = returned.elements()
    if not all(element.kind() == "DictType" for element in elements):
        return None
    return _paths_in_dicts(module, [f"r[{index}]" for index in range(len(elements))])


def _is_output(kind: Any) -> bool:
    return kind.kind() in ("TensorType", "AnyType", "UnionType", "OptionalType") or kind.annotation_str == "List[str]"


def _may_be_none(returned: Any) -> bool:
    return returned.kind() == "OptionalType" or any(map(_may_be_none, returned.containedTypes()))


def _fields(returned: Any) -> list[str]:
    text = returned.str()
    fields = re.findall(r"(?:\A\w+\(|, )(\w+) : ", text) if text.startswith("NamedTuple(") else []
    return fields if fields and len(fields) == len(returned.elements()) else []


def _paths_in_dicts(module: Any, places: list[str]) -> dict[str, str]:
    (value,) = module.inlined_graph.outputs()
    values = [value] if len(places) == 1 and places[0] == "r" else list(value.node().inputs())
    keys = [_constant_keys(one) for one in values]
    names = [name for some in keys for name in some]
    if len(values) != len(places) or not all(keys) or len(set(names)) != len(names):
        return {}
    return {name: f"{place}[{name!r}]" for place, some in zip(places, keys, strict=True) for name in some}


def _constant_keys(value: Any) -> list[str]:
    """List the keys of a dict that is built from constant keys where it is returned; empty if it may be otherwise."""
    node = value.node()
    if node.kind() != "prim::DictConstruct":
        return []
    keys = [key.toIValue() for key in list(node.inputs())[::2]]
    for use in value.uses():
        if use.user.kind() == "aten::_set_item" and use.offset == 0 and _is_in_same_block(use.user, node):
            keys.append(list(use.user.inputs())[1].toIValue())
        elif use.user.kind() not in ("prim::Return", "prim::TupleConstruct"):
            return []
    names = list(dict.fromkeys(keys))
    return names if all(isinstance(name, str) and _is_plain(name) for name in names) else []


def _is_in_same_block(one: Any, other: Any) -> bool:
    return bool(one.owningBlock() == other.owningBlock())


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable()
