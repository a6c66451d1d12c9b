"""Which execution providers were asked for, and whether they are those that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import DeviceError, OptionError, shown

__all__ = ["CPU", "CUDA", "Providers", "check_running", "missing", "providers_for"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

Providers = list[tuple[str, dict[str, str]]]
"""Names with their options, in order."""

_ON_CUDA = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
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
    """Read from device and option ``providers`` what is to run; for ``auto`` that is CUDA, then the CPU.

    Raises
    ------
    DeviceError, OptionError
    """
    kind, index = _device(options.device)
    given = options.values.get("providers")
    if given is None:
        on_cuda = (CUDA, {"device_id": str(index)})
        return [(CPU, {})] if kind == "cpu" else [on_cuda, (CPU, {})]
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
            raise _not_there(name, f"ONNX Runtime could not start it and took {', '.join(running)}")


def _not_there(name: str, instead: str) -> DeviceError:
    install = f"run: {_INSTALL[name]}, or" if name in _INSTALL else "install the ONNX Runtime that has it, or"
    remedy = f"{install} pass device='auto' or fallback=True to run on the CPU"
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
