"""Which execution providers were asked for, and whether they are those that run."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import DeviceError, OptionError, shown
from neuropod_onnx._errors import reason

__all__ = [
    "CPU",
    "CUDA",
    "Providers",
    "check_running",
    "could_not_start",
    "cuda_index",
    "has_cuda_driver",
    "is_automatic",
    "missing",
    "providers_for",
]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

Providers = list[tuple[str, dict[str, str]]]
"""Names with their options, in order."""

_ON_CUDA = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
_OR_CPU = "pass device='auto' or fallback=True to run on the CPU"
_INSTALL = {
    CUDA: "pip install 'neuropod-onnx[gpu]'",
    "TensorrtExecutionProvider": "pip install 'neuropod-onnx[gpu]'",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino",
    "DmlExecutionProvider": "pip install onnxruntime-directml",
    "QNNExecutionProvider": "pip install onnxruntime-qnn",
    "ROCMExecutionProvider": "pip install onnxruntime-rocm",
    "MIGraphXExecutionProvider": "pip install onnxruntime-migraphx",
}


def providers_for(options: LoadOptions) -> Providers:
    """Read from device and option ``providers`` what is to run.

    For ``auto`` that is CUDA where there is a driver: without one, trying would only fill stderr with complaints.

    Raises
    ------
    DeviceError, OptionError
    """
    kind, index = _device(options.device)
    given = options.values.get("providers")
    if given is None:
        on_cuda = (CUDA, {"device_id": str(index)})
        wants_cuda = kind == "cuda" or (kind == "auto" and has_cuda_driver())
        return [on_cuda, (CPU, {})] if wants_cuda else [(CPU, {})]
    providers = _parsed(given)
    if kind == "cuda":
        _place_on_cuda(providers, index)
    return providers


def missing(providers: Providers, available: Sequence[str]) -> DeviceError | None:
    """Say which provider the installed ONNX Runtime was built without, if one is."""
    for name, _ in providers:
        if name not in available:
            return _not_there(name, f"this ONNX Runtime was built with {', '.join(available)}")
    return None


def check_running(providers: Providers, running: Sequence[str]) -> None:
    """Compare what was asked for with what the session says that it runs on.

    Raises
    ------
    DeviceError
        If one is not among them: ONNX Runtime drops a provider that it cannot start without an error.
    """
    for name, _ in providers:
        if name not in running:
            raise _not_started(name, f"ONNX Runtime could not start it and took {', '.join(running)}")


def could_not_start(providers: Providers, error: Exception) -> DeviceError:
    """Say that a model which runs on the CPU does not run on `providers`."""
    if isinstance(error, DeviceError):
        return error
    return _not_started(providers[0][0], f"ONNX Runtime could not start it: {reason(error)}")


def cuda_index(session: Any) -> int | None:
    """Give the number of the GPU that a session runs on; None if it runs on none of NVIDIA's."""
    name = session.get_providers()[0]
    if name not in _ON_CUDA:
        return None
    return int(session.get_provider_options().get(name, {}).get("device_id", 0))


def is_automatic(options: LoadOptions) -> bool:
    """Whether the caller leaves the choice to us."""
    return options.device.startswith("auto") and "providers" not in options.values


@lru_cache(maxsize=1)
def has_cuda_driver() -> bool:
    """Whether an NVIDIA driver is installed; the test starts nothing on a GPU."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _not_there(name: str, instead: str) -> DeviceError:
    install = f"run: {_INSTALL[name]}, or" if name in _INSTALL else "install the ONNX Runtime that has it, or"
    return DeviceError(f"{name} was asked for, {instead}", remedy=f"{install} {_OR_CPU}")


def _not_started(name: str, instead: str) -> DeviceError:
    libraries = "pip install 'onnxruntime-gpu[cuda,cudnn]'" if name in _ON_CUDA else "see the provider's requirements"
    remedy = f"install its driver and libraries ({libraries}), or {_OR_CPU}"
    return DeviceError(f"{name} was asked for, {instead}", remedy=remedy)


def _device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind in ("cpu", "cuda", "auto") and (index.isdecimal() or ":" not in device):
        return kind, int(index or 0)
    raise DeviceError(f"{shown(device)} is no device", remedy="use 'cpu', 'cuda', 'cuda:1' or 'auto'")


def _parsed(given: object) -> Providers:
    if not isinstance(given, (list, tuple)) or not given:
        raise OptionError(f"option 'providers' is a list of names or (name, options) pairs, not {shown(given)}")
    return [_provider(one) for one in given]


def _provider(given: object) -> tuple[str, dict[str, str]]:
    name, options = (given, {}) if isinstance(given, str) else _pair(given)
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise OptionError(f"a provider is a name or a (name, options) pair, not {shown(given)}", at="providers")
    return name, {str(key): str(value) for key, value in options.items()}


def _pair(given: Any) -> tuple[object, object]:
    try:
        name, options = given
    except (TypeError, ValueError):
        return None, None
    return name, options


def _place_on_cuda(providers: Providers, index: int) -> None:
    placed = [options for name, options in providers if name in _ON_CUDA]
    if not placed:
        names = ", ".join(name for name, _ in providers)
        raise OptionError(f"device 'cuda' was asked for, and providers that do not run there ({names})", at="providers")
    for options in placed:
        options.setdefault("device_id", str(index))
