"""From the names of a problem to the tensors of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuropod_core import ModelLoadError, Problem, TensorSpec
from neuropod_core.errors import shown
from neuropod_tf._analysis import reached
from neuropod_tf._artefact import Artefact
from neuropod_tf._signatures import Signature
from neuropod_tf._tensors import dtype_of

__all__ = ["Bindings", "bind"]


@dataclass(frozen=True)
class Bindings:
    """Which tensor of the graph each input and output of a problem is."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


def bind(
    graph: Any, artefact: Artefact, signature: Signature, mapping: Mapping[str, str], problem: Problem
) -> Bindings:
    """Find every tensor of `problem`, by `mapping` first, then by the names of `signature`.

    Names in `mapping` that the problem does not have mean nothing, as to the original's reader.

    Raises
    ------
    ModelLoadError
        If one is missing or of another type or shape, or if the model needs an input that the problem does not have.
    """
    sides = (("input", problem.inputs), ("output", problem.outputs))
    found = {}
    for side, specs in sides:
        offered = getattr(signature, f"{side}s")
        finder = _Finder(graph, artefact, side, offered, mapping)
        found[side] = {spec.name: finder.find(spec) for spec in specs}
    bindings = Bindings(found["input"], found["output"])
    _check_inputs(bindings, artefact, signature)
    return bindings


@dataclass(frozen=True)
class _Finder:
    """Finds the tensors of one side, ``input`` or ``output``."""

    graph: Any
    artefact: Artefact
    side: str
    offered: Mapping[str, Any]
    mapping: Mapping[str, str]

    def find(self, spec: TensorSpec) -> Any:
        name = self.mapping.get(spec.name, spec.name)
        known_by = self.offered.get(name) if name in self.offered else None
        if known_by is not None:
            tensor = self._tensor(known_by.name, spec)
        elif spec.name in self.mapping or not self.artefact.signatures:
            tensor = self._tensor(name, spec)
        else:
            raise self._missing(spec, name)
        self._check(spec, tensor, known_by)
        return tensor

    def _tensor(self, name: str, spec: TensorSpec) -> Any:
        try:
            return self.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            raise self._missing(spec, name) from None

    def _missing(self, spec: TensorSpec, name: str) -> ModelLoadError:
        what = f"the model has no {self.side} {shown(name)}"
        if name != spec.name:
            what += f", which node_name_mapping gives for {shown(spec.name)}"
        if self.offered:
            what += f" (it has: {', '.join(f'{key!r} {_notation(by)}' for key, by in sorted(self.offered.items()))})"
        first = min(self.offered, default="scope/node")
        remedy = f"say which it is by node_name_mapping={{{spec.name!r}: {first!r}}}"
        return ModelLoadError(what, at=self.artefact.at, remedy=remedy)

    def _check(self, spec: TensorSpec, tensor: Any, known_by: Any) -> None:
        shape = _lengths(known_by.tensor_shape if known_by is not None else tensor.shape)
        if dtype_of(tensor) is spec.dtype and _agree(spec.shape, shape):
            return
        got = _written(tensor.dtype.base_dtype.name, shape)
        what = f"expected {spec.notation} as the problem says, the model has {got} ({tensor.name})"
        raise ModelLoadError(what, at=f"{self.side}s.{spec.name}")


def _check_inputs(bindings: Bindings, artefact: Artefact, signature: Signature) -> None:
    feeds = [tensor.name for tensor in bindings.inputs.values()]
    twice = sorted(name for name, tensor in bindings.inputs.items() if feeds.count(tensor.name) > 1)
    if twice:
        raise ModelLoadError(f"the inputs {', '.join(map(repr, twice))} are one tensor of the model", at=artefact.at)
    keys = {known_by.name: key for key, known_by in signature.inputs.items()}
    nodes = reached(artefact.graph_def, (tensor.name for tensor in bindings.outputs.values()), feeds)
    needed = [keys.get(f"{node.name}:0", node.name) for node in nodes if node.op == "Placeholder"]
    if needed:
        ours = ", ".join(map(repr, bindings.inputs)) or "none"
        what = f"the model also needs the inputs {', '.join(map(repr, sorted(needed)))} (the problem has: {ours})"
        raise ModelLoadError(what, at=artefact.at, remedy="add them to the problem")


def _lengths(shape: Any) -> tuple[int | None, ...] | None:
    """Give the lengths of a shape of a graph or of a signature; None if it knows not even its rank."""
    if hasattr(shape, "unknown_rank"):
        return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
    return None if shape.rank is None else tuple(shape.as_list())


def _agree(expected: Iterable[Any], got: tuple[int | None, ...] | None) -> bool:
    expected = tuple(expected)
    if got is None:
        return True
    return len(expected) == len(got) and all(
        have is None or not isinstance(want, int) or want == have for want, have in zip(expected, got, strict=True)
    )


def _written(dtype: str, shape: tuple[int | None, ...] | None) -> str:
    return f"{dtype}[{'...' if shape is None else ', '.join('?' if n is None else str(n) for n in shape)}]"


def _notation(known_by: Any) -> str:
    from tensorflow import dtypes

    return _written(dtypes.as_dtype(known_by.dtype).name, _lengths(known_by.tensor_shape))
