"""The tensors of a problem, matched with those of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuropod_core.dtypes import DType
from neuropod_core.errors import PackageFormatError, shown
from neuropod_core.problem import Problem, TensorSpec
from neuropod_onnx._types import refusal
from neuropod_onnx.contents import Contents, Declared

__all__ = ["Port", "Signature", "match", "node_names"]

_TENSOR = re.compile(r"(optional\()?tensor\((\w+)\)\)?\Z")
_DTYPES = {
    "float": DType.FLOAT32,
    "double": DType.FLOAT64,
    **{dtype.value: dtype for dtype in DType if dtype not in (DType.FLOAT32, DType.FLOAT64)},
}


@dataclass(frozen=True)
class Port:
    """One tensor: what the problem says of it, and what the model calls it.

    An output `is_stored` where no operator computes it: it is an input or an initializer, whose memory some versions of
    ONNX Runtime give away as a result. It `may_be_nothing` where the model declares it optional: a call may give none.
    """

    spec: TensorSpec
    node: str
    required: bool = True
    is_stored: bool = False
    may_be_nothing: bool = False

    @property
    def name(self) -> str:
        """The problem's name."""
        return self.spec.name

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.spec.dtype


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs, in the order of the problem."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def node_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Read ``node_name_mapping`` from a variant's configuration: our names to the model's.

    Raises
    ------
    PackageFormatError
        If it is no table of text.
    """
    mapping = config.get("node_name_mapping") or {}
    if not isinstance(mapping, Mapping) or not all(isinstance(part, str) for pair in mapping.items() for part in pair):
        raise PackageFormatError(
            f"node_name_mapping is a table of names to names, not {shown(mapping)}", at="0/config.json"
        )
    return dict(mapping)


def match(problem: Problem, session: Any, contents: Contents, mapping: Mapping[str, str]) -> Signature:
    """Find each tensor of `problem` in the model and compare what both say of it.

    Raises
    ------
    PackageFormatError
        If they contradict each other, with both sides.
    """
    overridable = {node.name: node for node in session.get_overridable_initializers()}
    needed = {node.name: node for node in session.get_inputs()}
    stored = {*needed, *overridable, *contents.initializers}
    inputs = _Side("inputs", needed | overridable, contents.inputs, mapping)
    outputs = _Side("outputs", {node.name: node for node in session.get_outputs()}, contents.outputs, mapping)
    matched = Signature(
        tuple(inputs.port(spec, required=node in needed) for spec, node in inputs.named(problem.inputs)),
        tuple(
            outputs.port(spec, is_stored=node in stored)
            for spec, node in outputs.named(problem.outputs)
            if not outputs.lacks(spec, node)
        ),
    )
    _check_complete(needed, matched)
    return matched


def _check_complete(needed: Mapping[str, Any], matched: Signature) -> None:
    for side, ports in (("inputs", matched.inputs), ("outputs", matched.outputs)):
        nodes = [port.node for port in ports]
        twice = next((node for node in nodes if nodes.count(node) > 1), None) if len(set(nodes)) < len(nodes) else None
        if twice is not None:
            raise PackageFormatError(f"two names stand for the model's {shown(twice)}", at=f"node_name_mapping, {side}")
    given = {port.node for port in matched.inputs}
    for name, node in needed.items():
        if name not in given and not node.type.startswith("optional"):
            there = ", ".join(port.name for port in matched.inputs) or "none"
            raise PackageFormatError(
                f"the model needs an input {shown(name)}, the problem's inputs are {there}",
                at="inputs",
                remedy="declare it, or name it in node_name_mapping",
            )


class _Side:
    """The inputs or the outputs of a model."""

    def __init__(
        self, side: str, nodes: Mapping[str, Any], declared: Mapping[str, Declared], mapping: Mapping[str, str]
    ) -> None:
        self._side, self._nodes, self._declared, self._mapping = side, nodes, declared, mapping

    def named(self, specs: Iterable[TensorSpec]) -> list[tuple[TensorSpec, str]]:
        return [(spec, self._mapping.get(spec.name, spec.name)) for spec in specs]

    def lacks(self, spec: TensorSpec, node: str) -> bool:
        return spec.optional and node not in self._nodes

    def port(self, spec: TensorSpec, *, required: bool = True, is_stored: bool = False) -> Port:
        name = self._mapping.get(spec.name, spec.name)
        if name not in self._nodes:
            there = ", ".join(self._nodes) or "none"
            what = f"the model has no {self._side[:-1]} {shown(name)} (its {self._side} are {there})"
            raise PackageFormatError(what, at=f"{self._side}.{spec.name}", remedy="name it in node_name_mapping")
        node = self._nodes[name]
        self._compare(spec, node)
        optional = node.type.startswith("optional")
        return Port(spec, name, required and not optional, is_stored, optional)

    def _compare(self, spec: TensorSpec, node: Any) -> None:
        found = _TENSOR.match(node.type)
        dtype = _DTYPES.get(found[2]) if found else None
        if dtype is None:
            reason, remedy = refusal(node.type)
            raise PackageFormatError(
                f"the model's {shown(node.name)} {reason}", at=f"{self._side}.{spec.name}", remedy=remedy
            )
        shape = self._shape(node)
        if dtype is not spec.dtype or not _agree(spec.shape, shape):
            theirs = f"{dtype}{'' if shape is None else list(shape)}".replace("None", "?").replace("'", "")
            what = f"the problem says {spec.notation}, the model {theirs}"
            raise PackageFormatError(what, at=f"{self._side}.{spec.name}", remedy="package it with the model's specs")

    def _shape(self, node: Any) -> tuple[Any, ...] | None:
        # ONNX Runtime says [] for a scalar and for any rank alike; the file tells them apart.
        declared = self._declared.get(node.name)
        if not node.shape and (declared is None or declared.shape is None):
            return None
        return tuple(node.shape)


def _agree(ours: tuple[Any, ...], theirs: tuple[Any, ...] | None) -> bool:
    if theirs is None:
        return True
    if len(ours) != len(theirs):
        return False
    lengths = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, int) and isinstance(b, int)]
    return all(a == b or b <= 0 for a, b in lengths)
