"""Reads exported programs: what they take and give, which sizes they admit, what a call may write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from neuropod_core.errors import ModelLoadError
from neuropod_core.problem import Problem
from neuropod_torch._interface import Interface, Port, is_condition, named_inputs, named_outputs
from neuropod_torch._operators import FRESH, HONEST, WRITES_UNSAID

__all__ = [
    "Effects",
    "check_layout",
    "devices_of",
    "effects_of",
    "flat_call",
    "fresh_results",
    "interface_of",
    "is_brief",
]

_BRIEF = 6  # Inference mode spares 0.1 us an operator, and takes 0.8 us to enter and leave.
_ALWAYS_TAKEN = 2  # torch exports for two rows and more, and lets one and none pass: so do we.


def interface_of(program: Any, problem: Problem) -> Interface:
    """Read what a program takes and gives.

    Raises
    ------
    ModelLoadError
        If it takes or gives what no problem can say.
    """
    names, values = _input_names(program), _user_inputs(program)
    inputs = tuple(_input(names.get(index, f"input {index}"), value) for index, value in enumerate(values))
    outputs = named_outputs(_output_tree(program), problem)
    return Interface(inputs, outputs, tuple(dict.fromkeys(filter(is_condition, _conditions(program, values)))))


def _input_names(program: Any) -> dict[int, str]:
    spec = program.call_spec.in_spec
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return named_inputs(tree, _argument_names(program))


def _argument_names(program: Any) -> Sequence[str]:
    signature = program.module_call_graph[0].signature
    return getattr(signature, "forward_arg_names", None) or ()


def _output_tree(program: Any) -> Any:
    spec = program.call_spec.out_spec
    return pytree.tree_unflatten(range(spec.num_leaves), spec)


def _user_inputs(program: Any) -> list[Any]:
    """Give what stands for each input in the graph: a fake tensor, or the constant itself."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    given = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    return [arg.value if hasattr(arg, "value") else nodes[arg.name].meta.get("val") for arg in given]


def _input(name: str, value: Any) -> Port | object:
    if isinstance(value, torch.Tensor):
        shape = tuple(length if isinstance(length, int) else None for length in value.shape)
        return Port(name, str(value.dtype).removeprefix("torch."), shape)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelLoadError(f"the program takes {type(value).__name__}, no tensor", name, "export it with tensors only")


# -- sizes ------------------------------------------------------------------------------------------------------------


def _conditions(program: Any, values: Sequence[Any]) -> Iterator[str]:
    sizes = [
        (f"s{index}[{axis}]", length)
        for index, value in enumerate(values)
        if isinstance(value, torch.Tensor)
        for axis, length in enumerate(value.shape)
    ]
    yield from (f"{place} == {length}" for place, length in sizes if isinstance(length, int))
    symbols: dict[str, str] = {}
    for place, length in sizes:
        if not isinstance(length, int):
            yield from _symbolic(program, place, length.node.expr, symbols)
    yield from _guards(program, len(values))


def _symbolic(program: Any, place: str, expression: Any, symbols: dict[str, str]) -> Iterator[str]:
    name = str(expression)
    if expression.is_Symbol and name not in symbols:
        symbols[name] = place
        yield from _within(place, program.range_constraints.get(expression))
    elif all(str(symbol) in symbols for symbol in expression.free_symbols):
        yield f"{place} == {re.sub(r'[A-Za-z_]+[0-9]+', lambda found: symbols.get(found[0], found[0]), name)}"


def _within(place: str, values: Any) -> Iterator[str]:
    if values is None:
        return
    if values.lower.is_Integer and values.lower > _ALWAYS_TAKEN:
        yield f"{place} >= {int(values.lower)}"
    if values.upper.is_Integer and values.upper < torch.iinfo(torch.int64).max - 1:
        yield f"{place} <= {int(values.upper)}"


def _guards(program: Any, count: int) -> Iterator[str]:
    """Translate the guards that newer releases of torch keep beside the ranges."""
    guards = getattr(program, "_guards_code", None) or ()
    paths = dict(_paths(program, count)) if guards else {}
    for guard in guards:
        text = guard
        for path, place in paths.items():
            text = text.replace(f"L{path}.size()", f"s{place}")
        yield text.replace("\n", " ")


def tells_sizes(program: Any) -> bool:
    """Tell whether every guard of a program speaks of sizes, and not of strides, say, or of fixed numbers."""
    return all(map(is_condition, _guards(program, len(_user_inputs(program)))))


def _paths(program: Any, count: int) -> Iterator[tuple[str, int]]:
    args, kwargs = pytree.tree_unflatten(range(count), program.call_spec.in_spec)
    names = _argument_names(program)
    yield from _paths_below({**dict(zip(names, args, strict=False)), **kwargs}, "")


def _paths_below(part: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(part, dict):
        for key, inner in part.items():
            yield from _paths_below(inner, f"{path}[{key!r}]")
    elif isinstance(part, list | tuple):
        for index, inner in enumerate(part):
            yield from _paths_below(inner, f"{path}[{index}]")
    else:
        yield path, part


def devices_of(program: Any) -> set[torch.device]:
    """Name the devices that a program was exported for."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    return {value.device for value in values if isinstance(value, torch.Tensor)}


def check_layout(program: Any) -> None:
    """Refuse to compile for inputs that are not contiguous: compiled code believes the layout of its examples.

    Raises
    ------
    ModelLoadError
        If an example was not.
    """
    names = _input_names(program)
    for index, value in enumerate(_user_inputs(program)):
        if isinstance(value, torch.Tensor) and not value.is_contiguous():
            what = "the program was exported for an input that is not contiguous"
            raise ModelLoadError(what, f"inputs.{names.get(index, index)}", "export it with contiguous examples")


# -- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """What a call may write.

    Parameters
    ----------
    writes_inputs
        Memory of its inputs.
    keeps_state
        What later calls compute with.
    """

    writes_inputs: bool
    keeps_state: bool


def effects_of(program: Any) -> Effects:
    """Find what a program may write; each answer is yes unless the contrary is certain."""
    users = {spec.arg.name for spec in program.graph_signature.input_specs if _is_user(spec)}
    roots: dict[Any, frozenset[str]] = {}
    written: set[str] = set(_said_mutations(program.graph_signature))
    for node in program.graph.nodes:
        below = frozenset().union(*(roots.get(one, frozenset()) for one in node.all_input_nodes))
        if node.op == "placeholder":
            roots[node] = frozenset({"inputs" if node.name in users else "state"})
        elif node.op == "get_attr":
            roots[node] = frozenset({"state"})
        else:
            roots[node] = frozenset() if _is_fresh(node.target) else below
            for argument in _written_by(node, program.graph_module):
                written |= roots.get(argument, frozenset())
    return Effects("inputs" in written, "state" in written)


def fresh_results(program: Any) -> dict[int, str]:
    """Find the results whose memory is certain to be theirs alone, with their element types.

    An operator that makes new memory gives each of them, nothing else that is returned derives from it, and no operator
    of a library of its own could have kept it.
    """
    *called, end = (node for node in program.graph.nodes if node.op != "placeholder")
    if not _is_plain(program) or not all(map(_is_of_torch, called)):
        return {}
    results = [node if isinstance(node, torch.fx.Node) else None for node in end.args[0]]
    behind: dict[Any, int] = {}  # How many results a node is, or comes into otherwise than by values.
    for node in filter(None, results):
        for one in _shares_with(node):
            behind[one] = behind.get(one, 0) + 1
    return {
        place: str(node.meta["val"].dtype).removeprefix("torch.")
        for place, node in enumerate(results)
        if node is not None and behind[node] == 1 and _is_new(node)
    }


def _is_new(node: Any) -> bool:
    value = node.meta.get("val")
    return _is_fresh(node.target) and isinstance(value, torch.Tensor) and value.layout is torch.strided


def _shares_with(node: Any) -> set[Any]:
    """Give a node and all that its memory may come from."""
    found, left = set(), [node]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += [] if _is_fresh(one.target) else one.all_input_nodes
    return found


def _is_user(spec: Any) -> bool:
    return bool(spec.kind.name == "USER_INPUT" and hasattr(spec.arg, "name"))


def _said_mutations(signature: Any) -> Iterator[str]:
    for spec in signature.output_specs:
        if spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION", "TOKEN"):
            yield "state"
        if spec.kind.name == "USER_INPUT_MUTATION":
            yield "inputs"


def _is_fresh(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
        return False
    return target._schema.name in FRESH and not target._schema.is_mutable  # noqa: SLF001 - its only reader


def _written_by(node: Any, module: Any) -> Iterable[Any]:
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
        return list(node.all_input_nodes) if _has_writing_branch(node, module) else ()
    schema = node.target._schema  # noqa: SLF001 - its only reader
    if not schema.name.startswith(HONEST):
        return list(node.all_input_nodes)
    if schema.name in WRITES_UNSAID:
        flag, places = WRITES_UNSAID[schema.name]
        return [node.args[place] for place in places] if node.args[flag] is not False else ()
    return [_argument(node, place, one.name) for place, one in enumerate(schema.arguments) if _is_written(one)]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _argument(node: Any, place: int, name: str) -> Any:
    value = node.args[place] if place < len(node.args) else node.kwargs.get(name)
    return value if isinstance(value, torch.fx.Node) else None


def _has_writing_branch(node: Any, module: Any) -> bool:
    """Whether a branch or a loop has an operator that writes, or one of a library of its own."""
    parts = [getattr(module, one.target) for one in node.all_input_nodes if one.op == "get_attr"]
    graphs = [graph for part in parts if isinstance(part, torch.fx.GraphModule) for graph in part.modules()]
    nodes = (inner for graph in graphs if isinstance(graph, torch.fx.GraphModule) for inner in graph.graph.nodes)
    return any(map(_may_write, nodes))


def _may_write(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    return bool(schema.is_mutable) or not schema.name.startswith(HONEST) or schema.name in WRITES_UNSAID


# -- calls ------------------------------------------------------------------------------------------------------------


def flat_call(program: Any) -> Callable[..., Sequence[Any]]:
    """Give the function that takes all inputs in their order and returns all results in theirs.

    It is the graph itself with its weights bound, where that is all there is to a call; else what torch makes of it.
    """
    if not _is_plain(program):
        return _module_call(program)
    state = {**program.constants, **program.state_dict}
    weights = [state[spec.target] for spec in program.graph_signature.input_specs if spec.kind.name != "USER_INPUT"]
    call = partial(program.graph_module.forward, *(weight.detach() for weight in weights))
    vars(call)["weights"] = weights  # A second tensor of each storage: results that are weights are not taken for new.
    return call


def is_brief(program: Any) -> bool:
    """Tell whether `flat_call` is done before inference mode would pay.

    None of its weights asks for a gradient then, and no input does: there is nothing to record in any mode. Operators
    of a library of its own are left out, since those may look at the mode.
    """
    called = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    return _is_plain(program) and len(called) <= _BRIEF and all(map(_is_of_torch, called))


def _is_of_torch(node: Any) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"  # noqa: SLF001 - as above


def _is_plain(program: Any) -> bool:
    inputs, outputs = program.graph_signature.input_specs, program.graph_signature.output_specs
    kinds = {spec.kind.name for spec in inputs[: len(inputs) - len(_user_inputs(program))]}
    has_tensors_only = kinds <= {"PARAMETER", "BUFFER", "CONSTANT_TENSOR"} and all(map(_is_result, outputs))
    return has_tensors_only and tells_sizes(program)


def _is_result(spec: Any) -> bool:
    return bool(spec.kind.name == "USER_OUTPUT")


def _module_call(program: Any) -> Callable[..., Sequence[Any]]:
    module, spec = program.module(), program.call_spec.in_spec

    def call(*flat: Any) -> Sequence[Any]:
        args, kwargs = pytree.tree_unflatten(flat, spec)
        results: Sequence[Any] = pytree.tree_leaves(module(*args, **kwargs), is_leaf=lambda one: one is None)
        return results

    return call
