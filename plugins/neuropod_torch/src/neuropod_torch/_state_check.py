"""Sees whether compiled code keeps what a program writes to its buffers: a compiler may lose some of it in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuropod_core.errors import PackagingError
from neuropod_core.problem import Problem
from neuropod_torch._errors import reason
from neuropod_torch._exported import flat_call
from neuropod_torch._exporting import examples_for
from neuropod_torch._interface import Interface, Port
from neuropod_torch._quiet import quiet_torch
from neuropod_torch.aoti import opened_package

__all__ = ["check_state_is_kept"]

_CALLS = 3
_TOLERANCE = {"rtol": 1e-2, "atol": 1e-3}  # Compiled code may sum in another order; what is lost is no rounding.


def check_state_is_kept(
    program: Any, compiled: Path, interface: Interface, problem: Problem, test_data: Mapping[str, Any] | None
) -> None:
    """Hold a few calls of compiled code against the same calls of the program that it was compiled from.

    The inputs are those of the test data, or made up. A program that refuses them, or that gives other results when it
    starts anew, cannot be compared, and passes.

    Raises
    ------
    PackagingError
        If the first call of both agrees and a later one does not.
    """
    inputs = _in_order(interface, examples_for(problem, test_data, torch.device("cpu")))
    try:
        with quiet_torch(), torch.no_grad():
            expected, again = (_called(flat_call(deepcopy(program)), inputs) for _ in range(2))
    except Exception:  # noqa: BLE001 - these inputs are nothing for it; which are, nobody says
        return
    if not all(map(_agree, expected, again)):
        return
    try:
        with quiet_torch(), torch.no_grad():
            runner = opened_package(compiled, torch.device("cpu")).loader
            got = _called(lambda *values: runner.run(list(values)), inputs)
    except Exception as error:
        raise PackagingError(f"the compiled program does not run: {reason(error)}") from error
    agreed = list(map(_agree, expected, got))
    if agreed[0] and not all(agreed):
        what = "the compiled program loses what the model writes to its buffers: the same calls give other results than"
        raise PackagingError(f"{what} before it was compiled", remedy="package it by create_torch_export_neuropod")


def _in_order(interface: Interface, examples: Mapping[str, torch.Tensor]) -> list[Any]:
    return [examples[one.name].contiguous() if isinstance(one, Port) else one for one in interface.inputs]


def _called(call: Callable[..., Sequence[Any]], inputs: Sequence[Any]) -> list[list[Any]]:
    """Call a few times with copies, since inputs may be written to; give copies, since results may be buffers."""
    calls = []
    for _ in range(_CALLS):
        results = call(*(one.clone() if isinstance(one, torch.Tensor) else one for one in inputs))
        calls.append([one.clone() if isinstance(one, torch.Tensor) else one for one in results])
    return calls


def _agree(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    return all(
        np.allclose(one.to(torch.float64), other.to(torch.float64), equal_nan=True, **_TOLERANCE)
        for one, other in zip(ours, theirs, strict=True)
        if isinstance(one, torch.Tensor) and not one.is_complex()
    )
