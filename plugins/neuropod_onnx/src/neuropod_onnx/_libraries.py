"""Execution providers that come as libraries of their own, registered with ONNX Runtime once in a process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import DeviceError, OptionError, shown
from neuropod_onnx._errors import reason

__all__ = ["add_providers", "plugin_devices", "register_libraries"]

_OPTION = "provider_library"
_lock = threading.Lock()
_registered: dict[str, str] = {}
"""Name -> sha256 of what was registered under it: ONNX Runtime takes a name once, and forgets none while it is used."""


def register_libraries(options: LoadOptions) -> None:
    """Register the libraries that option ``provider_library`` names, those that are new to this process.

    Raises
    ------
    DeviceError
        If ONNX Runtime cannot take one: it is older than 1.22, or the library was made for another version.
    OptionError
        If the option is no table of names to paths, or a name stands for another library by now.
    """
    given = options.values.get(_OPTION, {})
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name for name in given):
        raise OptionError(f"option {_OPTION!r} is a table of names to paths of libraries, not {shown(given)}")
    for name, path in given.items():
        _register(name, _file(name, path))


def plugin_devices() -> dict[str, list[Any]]:
    """Give the devices of registered libraries, by the name of their provider."""
    import onnxruntime

    built_in = set(onnxruntime.get_available_providers())
    devices: dict[str, list[Any]] = {}
    for device in onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else ():
        if device.ep_name not in built_in:
            devices.setdefault(device.ep_name, []).append(device)
    return devices


def add_providers(made: Any, providers: list[tuple[str, dict[str, str]]], devices: Mapping[str, list[Any]]) -> None:
    """Add providers to session options, those of libraries by their devices; the CPU is there without being added."""
    for name, settings in providers:
        if name in devices:
            made.add_provider_for_devices(devices[name], settings)
        elif name != "CPUExecutionProvider":
            made.add_provider(name, settings)


def _file(name: str, path: object) -> Path:
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        raise OptionError(f"there is no library {shown(path)}", at=f"{_OPTION}.{name}", remedy="pass its path")
    return Path(path).resolve()


def _register(name: str, path: Path) -> None:
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        what = f"onnxruntime {onnxruntime.__version__} takes no libraries of execution providers"
        raise DeviceError(what, remedy="run: pip install --upgrade onnxruntime")
    digest = sha256(path.read_bytes()).hexdigest()
    with _lock:
        if _registered.get(name, digest) != digest:
            what = f"{shown(name)} stands for another library in this process"
            raise OptionError(what, at=_OPTION, remedy="choose another name, or run the model in a worker")
        if name not in _registered:
            _try_registering(onnxruntime, name, path)
            _registered[name] = digest


def _try_registering(onnxruntime: Any, name: str, path: Path) -> None:
    try:
        onnxruntime.register_execution_provider_library(name, str(path))
    except Exception as error:
        if "already registered" in str(error):  # By the application, which knows what it does.
            return
        what = f"ONNX Runtime cannot take the library {shown(path.name)}: {reason(error)}"
        raise DeviceError(what, remedy="use the release that was made for this ONNX Runtime") from error
