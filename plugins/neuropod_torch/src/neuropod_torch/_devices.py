"""Devices and threads: what was asked for, or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import DeviceError, OptionError, shown

__all__ = ["device_for", "set_threads", "take_over_threads"]

_inherited: dict[str, int] = {}  # In a worker: what its parent runs with.

_NAME = re.compile(r"cpu\Z|(cuda)(?::(\d{1,4}))?\Z")


def device_for(name: str) -> torch.device:
    """Find the device that ``cpu``, ``cuda``, ``cuda:1`` or ``auto`` speaks of.

    Raises
    ------
    DeviceError
        If it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = _NAME.match(name)
    if found is None:
        raise DeviceError(f"torch runs on cpu, cuda or cuda:<number> here, not on {shown(name)}")
    if found[1]:
        _check_cuda(name, int(found[2] or 0))
    return torch.device(name)


def _check_cuda(name: str, index: int) -> None:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= there:
        build = "" if torch.version.cuda else f", and torch {torch.__version__} was built without CUDA"
        remedy = "load it with device='cpu' or 'auto'"
        raise DeviceError(f"{name!r} was asked for, torch sees {there} CUDA devices{build}", remedy=remedy)


def take_over_threads(settings: Mapping[str, Any]) -> None:
    """Have models of this worker run with the numbers of threads of its parent, unless they ask for others."""
    _inherited.update({name: count for name, count in settings.items() if type(count) is int and count > 0})


def set_threads(options: LoadOptions) -> None:
    """Set the numbers of threads that were asked for, or that a parent has; both hold for the whole process.

    Raises
    ------
    OptionError
        If torch has started the threads across operators already, with another number.
    """
    within, across = (options.integer(name, _inherited.get(name)) for name in ("intra_op_threads", "inter_op_threads"))
    if within is not None:
        torch.set_num_threads(within)
    if across is None or across == torch.get_num_interop_threads():
        return
    try:
        torch.set_num_interop_threads(across)
    except RuntimeError as error:
        what = f"option 'inter_op_threads' is {across}, torch runs with {torch.get_num_interop_threads()} already"
        raise OptionError(
            what, remedy="set it before anything runs in parallel, or load the model elsewhere"
        ) from error
