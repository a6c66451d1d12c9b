"""A loaded module made ready: one method in the order of the problem, constants folded, its effects known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from neuropod_core.errors import ModelLoadError
from neuropod_core.problem import Problem
from neuropod_torch._aliasing import Facts, facts_of
from neuropod_torch._calls import METHOD, method_source
from neuropod_torch._quiet import quiet_jit
from neuropod_torch._signature import Signature, read_signature

__all__ = ["Program", "prepared"]


@dataclass(frozen=True)
class Program:
    """What one executor runs.

    Parameters
    ----------
    signature
        How ``forward`` is called.
    forward
        The module's own method.
    method
        The added method, which takes every input and returns every output in the order of the problem; None where only
        a call tells which outputs there are.
    facts
        What either of them may do to memory; `Facts.shared` speaks of the results of `method`.
    frozen
        Whether constants were folded.
    """

    signature: Signature
    forward: Callable[..., Any]
    method: Callable[..., Any] | None
    facts: Facts
    frozen: bool


def prepared(module: Any, problem: Problem, *, freeze: bool) -> Program:
    """Make a module in evaluation mode ready for a problem.

    A module that keeps state is left as it is. Others run frozen, without the optimisations that change numbers.

    Raises
    ------
    ModelLoadError
        If the module does not fit the problem.
    """
    if not hasattr(module, "forward"):
        raise ModelLoadError("the module has no method forward", remedy="give it one before you save it")
    signature = read_signature(module, problem)
    added = bool(signature.paths) and _is_added(module, signature, problem)
    twin = _frozen(module, added=added)
    facts = _facts(twin or module, added=added)
    runs = twin if twin is not None and freeze and not facts.keeps_state else module
    return Program(signature, runs.forward, getattr(runs, METHOD) if added else None, facts, runs is twin)


def _is_added(module: Any, signature: Signature, problem: Problem) -> bool:
    """Add the method; a signature that cannot be written down so (it names classes, say) is called as it is."""
    is_taken = all(signature.dict_type or spec.name in signature.arguments for spec in problem.inputs)
    if hasattr(module, METHOD) or not is_taken or not all(spec.name.isascii() for spec in problem.inputs):
        return False
    try:
        module.define(method_source(signature, problem))
    except RuntimeError:
        return False
    return True


def _frozen(module: Any, *, added: bool) -> Any:
    """Give a frozen copy that shares the weights; None where torch cannot freeze it."""
    try:
        with quiet_jit():
            return torch.jit.freeze(module, [METHOD] if added else None, optimize_numerics=False)
    except RuntimeError:
        return None


def _facts(module: Any, *, added: bool) -> Facts:
    whole = facts_of(module.inlined_graph)
    if not added:
        return Facts(whole.keeps_state, whole.writes_inputs, ())
    method = facts_of(getattr(module, METHOD).inlined_graph)
    return Facts(
        whole.keeps_state or method.keeps_state,
        whole.writes_inputs or method.writes_inputs,
        tuple(shared or whole.keeps_state for shared in method.shared),
    )
