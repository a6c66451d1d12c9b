"""Opens packages of AOTInductor. Imports torch: `neuropod_torch.plugin` imports this module in `Backend.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import PackageFormatError, shown
from neuropod_core.variants import Variant
from neuropod_torch._custom_ops import load_custom_ops
from neuropod_torch._devices import device_for, set_threads
from neuropod_torch._errors import load_error
from neuropod_torch._exported import Effects
from neuropod_torch._flat import FlatExecutor, FlatProgram
from neuropod_torch._host import check_device, check_host
from neuropod_torch._interface import Interface, check_fit
from neuropod_torch._quiet import quiet_torch

__all__ = ["ARTEFACT", "load", "opened_package"]

ARTEFACT = "data/model.pt2"
"""Where the compiled package lies in a variant."""


def load(variant: Variant, options: LoadOptions) -> FlatExecutor:
    """Open ``data/model.pt2`` of a variant, if it was compiled for this host; see `Backend.load`."""
    path = variant.artefact(ARTEFACT)
    at = f"{variant.folder.name}/config.json"
    check_host(variant.config.get("host"), at)
    device = _device(variant, options.device, at)
    interface = Interface.from_json(variant.config.get("interface"), at)
    check_fit(interface, variant.problem)
    effects = Effects(_flag(variant, "writes_inputs", at), _flag(variant, "keeps_state", at))
    set_threads(options)
    load_custom_ops(variant.custom_ops)
    try:
        with quiet_torch():
            package = opened_package(path, device)
    except Exception as error:
        raise load_error(error, f"{variant.folder.name}/{ARTEFACT}") from error
    facts = {"host": dict(variant.config["host"]), "sizes": list(map(interface.told, interface.conditions))}
    return FlatExecutor(FlatProgram(package.loader.run, True, interface, effects, device, facts), variant.problem)  # noqa: FBT003 - by name in the class


def opened_package(path: Path, device: torch.device) -> Any:
    """Load the compiled code of a package, which runs from now on with the rights of this process."""
    index = -1 if device.index is None else device.index
    return torch._inductor.aoti_load_package(str(path), device_index=index)  # noqa: SLF001 - its documented home


def _device(variant: Variant, name: str, at: str) -> torch.device:
    compiled_for = variant.config.get("device")
    if compiled_for not in ("cpu", "cuda"):
        raise PackageFormatError(f"the device is cpu or cuda, not {shown(compiled_for)}", at)
    device = device_for(compiled_for if name == "auto" else name)
    check_device(compiled_for, device, name)
    return device


def _flag(variant: Variant, name: str, at: str) -> bool:
    value = variant.config.get(name)
    if not isinstance(value, bool):
        raise PackageFormatError(f"{name} is true or false, not {shown(value)}", at)
    return value
