"""The machine that compiled code was made for: recorded when it is packaged, compared before it is loaded."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping

import torch

from neuropod_core.errors import DeviceError, ModelLoadError, PackageFormatError, shown

__all__ = ["check_device", "check_host", "this_host"]

_CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
_REMEDY = "package the exported program on such a machine, or as torch_export, which runs on any"


def this_host() -> dict[str, str]:
    """Describe this machine: operating system, architecture, vector instructions, release of torch."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu_capability": str(torch.backends.cpu.get_cpu_capability()),
        "torch": torch.__version__.partition("+")[0],
    }


def check_host(recorded: object, at: str) -> None:
    """Compare what was recorded with this machine.

    Raises
    ------
    PackageFormatError
        If nothing sound was recorded.
    ModelLoadError
        If the code was compiled for another machine or another release of torch.
    """
    if not isinstance(recorded, Mapping) or not all(isinstance(value, str) for value in recorded.values()):
        raise PackageFormatError(f"the host is a table of texts, not {shown(recorded)}", at)
    here = this_host()
    if missing := sorted(here.keys() - recorded.keys()):
        raise PackageFormatError(f"the host that the model was compiled for has no {missing[0]!r}", at)
    if not all(_runs(key, recorded[key], here[key]) for key in here):
        raise ModelLoadError(f"the model was compiled for {_told(recorded)}, this is {_told(here)}", at, _REMEDY)


def check_device(compiled_for: str, asked: torch.device, name: str) -> None:
    """Compare the device that code was compiled for with the one that was asked for.

    Raises
    ------
    DeviceError
        If they are of two kinds.
    """
    if compiled_for != asked.type:
        remedy = f"load it with device={compiled_for!r}, or package it for {asked.type}"
        raise DeviceError(f"the model was compiled for {compiled_for}, {shown(name)} was asked for", remedy=remedy)


def _runs(key: str, recorded: str, here: str) -> bool:
    """Newer vector instructions include the older ones, newer releases of torch keep the interface of compiled code."""
    if key == "cpu_capability" and {recorded, here} <= set(_CAPABILITIES):
        return _CAPABILITIES.index(recorded) <= _CAPABILITIES.index(here)
    if key == "torch":
        return _numbers(recorded) <= _numbers(here)
    return recorded == here


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,6}", release)[:3])


def _told(host: Mapping[str, str]) -> str:
    return f"{host['system']} {host['machine']} {host['cpu_capability']} with torch {host['torch']}"
