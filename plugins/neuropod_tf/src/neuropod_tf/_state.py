"""Brings a session to life: variables, tables, and the operations that a package names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neuropod_tf._artefact import Artefact

__all__ = ["bring_to_life"]


def bring_to_life(session: Any, artefact: Artefact, init_ops: tuple[str, ...]) -> None:
    """Restore the variables, then run the operations that fill tables, then those that the package names."""
    operation, checkpoint = artefact.restore
    if operation:
        _run(session, operation, checkpoint)
        _fill_originals(session, artefact.graph_def)
    for name in artefact.init_ops:
        _run(session, name, artefact.assets)
    for name in init_ops:
        _run(session, name, {})


def _run(session: Any, name: str, fed: Any) -> None:
    session.run(session.graph.get_operation_by_name(name.removeprefix("^").partition(":")[0]), fed)


def _fill_originals(session: Any, graph_def: Any) -> None:
    """Give variables that were not restored the values of the copies that were.

    A module that holds a Keras 3 model is saved with a copy of each of its variables: the file restores the copies,
    the functions read the originals.
    """
    from tensorflow import raw_ops

    handle = session.graph.get_tensor_by_name
    pairs = [(handle(f"{copy}:0"), handle(f"{original}:0"), dtype) for copy, original, dtype in _copies(graph_def)]
    if not pairs:
        return
    with session.graph.as_default():
        known = session.run([[raw_ops.VarIsInitializedOp(resource=each) for each in pair[:2]] for pair in pairs])
        session.run(
            [
                raw_ops.AssignVariableOp(resource=original, value=raw_ops.ReadVariableOp(resource=copy, dtype=dtype))
                for (copy, original, dtype), (copy_is, original_is) in zip(pairs, known, strict=True)
                if copy_is and not original_is
            ]
        )


def _copies(graph_def: Any) -> Iterator[tuple[str, str, int]]:
    """Give the variables whose initial value is that of another, with that other one and their element type."""
    nodes = {node.name: node for node in graph_def.node}
    for node in graph_def.node:
        if node.op == "AssignVariableOp":
            copy, value = (nodes.get(name) for name in node.input[:2])
            original = nodes.get(value.input[0]) if value is not None and value.op == "ReadVariableOp" else None
            if copy is not None and original is not None and copy.op == original.op == "VarHandleOp":
                yield copy.name, original.name, copy.attr["dtype"].type
