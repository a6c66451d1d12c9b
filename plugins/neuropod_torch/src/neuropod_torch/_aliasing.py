"""Which memory a graph writes, and which memory its results may share: what has to be copied is decided at load.

Values that may share memory fall into one class (a unification in one pass, without regard to order: coarse, and on the
safe side). A class is marked where it may hold memory of an input, of the model, or a constant that torch could keep
between calls. What is not known to be harmless counts as harmful: then everything is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Flag, auto
from functools import lru_cache
from typing import Any

import torch

from neuropod_torch._operators import FRESH, HONEST, ITEM_LISTS, LIKE_FIRST, STRUCTURAL, WRITES_UNSAID

__all__ = ["Facts", "facts_of"]

_SCALARS = frozenset(
    {
        "BoolType",
        "ComplexType",
        "DeviceObjType",
        "FloatType",
        "IntType",
        "LayoutType",
        "MemoryFormatType",
        "NoneType",
        "NumberType",
        "QSchemeType",
        "ScalarTypeType",
        "StreamObjType",
        "StringType",
        "SymIntType",
    }
)


class _Holds(Flag):
    """What the memory of a class may belong to besides the call itself."""

    NOTHING = 0
    INPUT = auto()
    MODEL = auto()
    CONSTANT = auto()  # Computed from no input: torch may compute it once and keep it.


@dataclass(frozen=True)
class Facts:
    """What was proven about a graph; each fact is true unless its contrary is certain.

    Parameters
    ----------
    keeps_state
        A call may change what later calls compute.
    writes_inputs
        A call may write into the memory of its inputs, or keep it.
    shared
        For each result: whether it may share memory with anything that outlives the call, or an earlier result.
    """

    keeps_state: bool
    writes_inputs: bool
    shared: tuple[bool, ...]


def facts_of(graph: Any) -> Facts:
    """Analyse the inlined graph of a method; its results are those of the tuple that it returns, else the one value."""
    analysis = _Analysis(graph)
    results = _results(graph)
    everything = analysis.keeps_state
    return Facts(everything, everything or analysis.writes_inputs, analysis.shared(results, everything=everything))


def _results(graph: Any) -> list[Any]:
    (returned,) = graph.outputs()
    node = returned.node()
    return list(node.inputs()) if node.kind() == "prim::TupleConstruct" else [returned]


class _Analysis:
    """The classes of one graph, and what was written."""

    def __init__(self, graph: Any) -> None:
        self._parent: dict[str, str] = {}
        self._holds: dict[str, _Holds] = {}
        self._varies: set[str] = set()
        self._written: list[str] = []
        self.keeps_state = False
        model, *inputs = graph.inputs()
        self._mark(model, _Holds.MODEL)
        for value in inputs:
            self._mark(value, _Holds.INPUT)
            self._varies.add(value.debugName())
        self._read_block(graph)
        written = [self._holds.get(self._root(name), _Holds.NOTHING) for name in self._written]
        self.keeps_state |= any(_Holds.MODEL in holds for holds in written)
        self.writes_inputs = any(_Holds.INPUT in holds for holds in written)

    def shared(self, results: list[Any], *, everything: bool) -> tuple[bool, ...]:
        seen: set[str] = set()
        answers = []
        for value in results:
            root = self._root(value.debugName())
            answers.append(everything or bool(self._holds.get(root)) or root in seen)
            seen.add(root)
        return tuple(answers)

    # Classes

    def _root(self, name: str) -> str:
        while (parent := self._parent.get(name, name)) != name:
            self._parent[name] = self._parent.get(parent, parent)
            name = parent
        return name

    def _unify(self, values: Iterable[Any]) -> None:
        names = [value.debugName() for value in values if _holds_memory(value)]
        for name in names[1:]:
            one, other = self._root(names[0]), self._root(name)
            if one != other:
                self._parent[other] = one
                self._holds[one] = self._holds.get(one, _Holds.NOTHING) | self._holds.pop(other, _Holds.NOTHING)

    def _mark(self, value: Any, holds: _Holds) -> None:
        root = self._root(value.debugName())
        self._holds[root] = self._holds.get(root, _Holds.NOTHING) | holds

    def _do_vary(self, values: Iterable[Any]) -> bool:
        return any(value.debugName() in self._varies for value in values)

    # Nodes

    def _read_block(self, block: Any) -> None:
        for node in block.nodes():
            self._read(node, node.kind())

    def _read(self, node: Any, kind: str) -> None:
        self._note_writes(node, kind)
        if kind == "prim::If":
            self._read_branches(node)
        elif kind == "prim::Loop":
            self._read_loop(node)
        elif kind in ("prim::Constant", "prim::GetAttr"):
            self._read_state(node, kind)
        else:
            self._read_operator(node, kind)

    def _read_branches(self, node: Any) -> None:
        blocks = list(node.blocks())
        for block in blocks:
            self._read_block(block)
        for output, *sources in zip(node.outputs(), *(block.outputs() for block in blocks), strict=True):
            self._unify([output, *sources])
            if all(source.debugName() in self._varies for source in sources):
                self._varies.add(output.debugName())

    def _read_loop(self, node: Any) -> None:
        (block,) = node.blocks()
        self._read_block(block)
        initial, carried = list(node.inputs())[2:], list(block.outputs())[1:]
        inside = list(block.inputs())[1:]
        for output, *sources in zip(node.outputs(), initial, carried, inside, strict=True):
            self._unify([output, *sources])
            if all(source.debugName() in self._varies for source in sources[:2]):
                self._varies.add(output.debugName())

    def _read_state(self, node: Any, kind: str) -> None:
        for output in node.outputs():
            if _holds_memory(output) and not output.node().mustBeNone():
                self._mark(output, _Holds.MODEL)
        if kind == "prim::GetAttr":
            self._unify([*node.inputs(), *node.outputs()])

    def _read_operator(self, node: Any, kind: str) -> None:
        operands, outputs = list(node.inputs()), list(node.outputs())
        varies = self._do_vary(operands)
        for output in outputs:
            if varies:
                self._varies.add(output.debugName())
            elif _holds_memory(output) and kind != "prim::Uninitialized":
                self._mark(output, _Holds.CONSTANT)
        if (kind in FRESH and _makes_memory(node)) or _is_list_for_one_operator(node, kind):
            return
        aliased = operands[:1] if kind in LIKE_FIRST else operands
        if outputs and all(map(_is_tensor, outputs)):
            aliased = [value for value in aliased if _may_hold_tensors(value.type())]
        self._unify([*aliased, *outputs])

    # Writes

    def _note_writes(self, node: Any, kind: str) -> None:
        if not (kind.startswith(HONEST) or kind in STRUCTURAL):
            self.keeps_state = True
        elif kind == "prim::SetAttr":
            self._note_written(node, (0,))
        elif kind in WRITES_UNSAID and not _is_off(node, WRITES_UNSAID[kind][0]):
            self._note_written(node, WRITES_UNSAID[kind][1])
        else:
            self._note_written(node, _written_arguments(node.schema()))

    def _note_written(self, node: Any, positions: Iterable[int]) -> None:
        operands = list(node.inputs())
        for position in positions:
            value = operands[position]
            self._written.append(value.debugName())


def _holds_memory(value: Any) -> bool:
    return value.type().kind() not in _SCALARS


def _is_tensor(value: Any) -> bool:
    return bool(value.type().kind() == "TensorType")


def _may_hold_tensors(kind: Any) -> bool:
    contained = kind.containedTypes()
    if kind.kind() in ("ListType", "OptionalType", "TupleType") and contained:
        return any(map(_may_hold_tensors, contained))
    return kind.kind() not in _SCALARS


def _makes_memory(node: Any) -> bool:
    """Whether this overload returns new tensors or numbers: not ``out=``, not the sum of two lists of tensors."""
    alike = all(_is_tensor(value) or not _may_hold_tensors(value.type()) for value in node.outputs())
    return alike and "!" not in node.schema() and "(a)" not in node.schema()


def _is_off(node: Any, position: int) -> bool:
    return list(node.inputs())[position].toIValue() is False


def _is_list_for_one_operator(node: Any, kind: str) -> bool:
    """Whether a list is made for an operator which keeps nothing of it."""
    return kind == "prim::ListConstruct" and all(use.user.kind() in ITEM_LISTS for use in node.output().uses())


@lru_cache(maxsize=4096)
def _written_arguments(schema: str) -> tuple[int, ...]:
    if schema == "(no schema)" or "!" not in schema:
        return ()
    arguments = torch._C.parse_schema(schema).arguments  # noqa: SLF001 - the only reader of schemas
    return tuple(_positions(arguments))


def _positions(arguments: Any) -> Iterator[int]:
    for position, argument in enumerate(arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield position
