"""Opens exported programs. Imports torch: `neuropod_torch.plugin` imports this module in `Backend.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from neuropod_core.backend import LoadOptions
from neuropod_core.problem import Problem
from neuropod_core.variants import Variant
from neuropod_torch._custom_ops import load_custom_ops
from neuropod_torch._devices import device_for, set_threads
from neuropod_torch._errors import load_error
from neuropod_torch._exported import devices_of, effects_of, flat_call, fresh_results, interface_of, is_brief
from neuropod_torch._flat import FlatExecutor, FlatProgram
from neuropod_torch._interface import check_fit, without_implied
from neuropod_torch._quiet import quiet_torch

__all__ = ["ARTEFACT", "load", "opened_program"]

ARTEFACT = "data/model.pt2"
"""Where the program lies in a variant."""


def load(variant: Variant, options: LoadOptions) -> FlatExecutor:
    """Open ``data/model.pt2`` of a variant; see `Backend.load`."""
    path = variant.artefact(ARTEFACT)
    device = device_for(options.device)
    set_threads(options)
    load_custom_ops(variant.custom_ops)
    try:
        with quiet_torch():
            program = flat_program(_moved(opened_program(path), device), variant.problem, device)
    except Exception as error:
        raise load_error(error, f"{variant.folder.name}/{ARTEFACT}") from error
    return FlatExecutor(program, variant.problem)


def opened_program(path: Path) -> Any:
    """Read an exported program; the file is unpickled, so it has to be trusted."""
    return torch.export.load(str(path))


def flat_program(program: Any, problem: Problem, device: torch.device) -> FlatProgram:
    """Make a program ready for a problem.

    Raises
    ------
    ModelLoadError
        If it does not fit the problem.
    """
    interface = interface_of(program, problem)
    check_fit(interface, problem)
    interface = without_implied(interface, problem)
    facts = {"sizes": [interface.told(condition) for condition in interface.conditions]}
    return FlatProgram(
        call=flat_call(program),
        is_compiled=False,
        interface=interface,
        effects=effects_of(program),
        device=device,
        facts=facts,
        fresh=fresh_results(program),
        is_brief=is_brief(program),
    )


def _moved(program: Any, device: torch.device) -> Any:
    """Move a program to the device that was asked for; it remembers where it was exported."""
    if all(one.type == device.type and one.index in (None, device.index) for one in devices_of(program)):
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)
