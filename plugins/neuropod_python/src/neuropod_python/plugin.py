"""The plugin: what the platform ``python`` can do, and how one of its packages is started."""

from __future__ import annotations

import inspect
import platform as python_platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropod_core.backend import Backend, Descriptor, Executor, LoadOptions
from neuropod_core.errors import (
    DeviceError,
    ModelLoadError,
    NeuropodError,
    PackageFormatError,
    shown,
)
from neuropod_core.hookspecs import hookimpl
from neuropod_core.trust import Trust

if TYPE_CHECKING:
    from neuropod_core.variants import Variant
    from neuropod_python.code import PackageCode

__all__ = ["PythonBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 0)

_DESCRIPTOR = Descriptor(
    platform="python",
    trust=Trust.CODE,
    devices=("cpu", "cuda"),
    options={
        "ignore_requirements": "true: load the model although the installed packages differ from its lock",
        "thread_safe": "whether the model may be called in several threads at once; else the package says",
        "writes_inputs": "false: the model neither writes into its inputs nor keeps them, so that they need no copy",
    },
    packagers={
        "create_python_neuropod": "neuropod_python.packagers:create_python_neuropod",
        "create_pytorch_neuropod": "neuropod_python.packagers:create_pytorch_neuropod",
    },
)


class PythonBackend(Backend):
    """Opens packages of Python code."""

    descriptor = _DESCRIPTOR

    def framework_version(self) -> str:
        """Give the version of Python: a package's ``platform_version_semver`` speaks of it."""
        return python_platform.python_version()

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Import the code of a package and call its entry point.

        Raises
        ------
        RequirementsError
            If what is installed differs from the lock, unless `ignore_requirements` waives it.
        ModelLoadError
            If the code cannot be imported or its entry point fails; the cause is its own error.
        """
        from neuropod_python.code import PackageCode
        from neuropod_python.ops import Ops
        from neuropod_python.requirements import check_installed

        entry = _Entry.of(variant, options)
        if not options.flag("ignore_requirements"):
            check_installed(variant.folder)
        code = PackageCode(variant.artefact("code"), Ops(variant.custom_ops))
        try:
            return _started(variant, options, entry, code)
        except BaseException:
            code.close()
            raise


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Answer for the platform ``python``."""
    del platform
    return PythonBackend()


@dataclass(frozen=True)
class _Entry:
    """What ``0/config.json`` says, with the caller's options laid over it."""

    package: str
    function: str
    thread_safe: bool
    stateful: bool
    writes_inputs: bool

    @classmethod
    def of(cls, variant: Variant, options: LoadOptions) -> _Entry:
        flags = {name: _flag(variant, name, default) for name, default in _FLAGS.items()}
        given = {name: options.flag(name) for name in flags if name in options.values}
        return cls(_dotted(variant, "entrypoint_package"), _dotted(variant, "entrypoint"), **{**flags, **given})


_FLAGS = {"thread_safe": False, "stateful": False, "writes_inputs": True}


def _dotted(variant: Variant, key: str) -> str:
    name = variant.config.get(key)
    parts = name.split(".") if isinstance(name, str) else [""]
    if not all(part.isidentifier() for part in parts) or (key == "entrypoint" and len(parts) > 1):
        raise PackageFormatError(f"{key} is a name, not {shown(name)}", at=str(variant.folder / "config.json"))
    return str(name)


def _flag(variant: Variant, key: str, default: bool) -> bool:  # noqa: FBT001 - a value, not a switch
    value = variant.config.get(key, default)
    if not isinstance(value, bool):
        raise PackageFormatError(f"{key} is true or false, not {shown(value)}", at=str(variant.folder / "config.json"))
    return value


def _started(variant: Variant, options: LoadOptions, entry: _Entry, code: PackageCode) -> Executor:
    from neuropod_python.executor import PythonExecutor

    with code.guests():
        function = _entry_point(entry, code)
        device = _device(function, options.device)
        model = _called(function, str(variant.folder / "data"), device, code.root)
    _check_callable(model, entry.function)
    return PythonExecutor(
        model,
        variant.problem,
        code=code.root,
        close=code.close,
        writes_inputs=entry.writes_inputs,
        thread_safe=entry.thread_safe,
        stateful=entry.stateful,
        description={"python": python_platform.python_version(), "entrypoint": f"{entry.package}:{entry.function}"},
    )


def _entry_point(entry: _Entry, code: PackageCode) -> Any:
    if not code.owns(entry.package):
        raise ModelLoadError(f"the code of the package has no module {entry.package!r}", at=str(code.root))
    module = _guarded(lambda: code.module(entry.package), f"importing {entry.package}", code.root)
    function = getattr(module, entry.function, None)
    if not callable(function):
        there = "none" if function is None else f"{type(function).__name__}, not a function"
        raise ModelLoadError(
            f"{entry.package} has no entry point {entry.function!r} (there is {there})", at=str(code.root)
        )
    return function


def _called(function: Callable[..., Any], data_path: str, device: dict[str, str], root: Path) -> Any:
    return _guarded(lambda: function(data_path, **device), f"the entry point {function.__name__!r}", root)


def _guarded(step: Callable[[], Any], doing: str, root: Path) -> Any:
    from neuropod_python.executor import message_of, place_of

    try:
        return step()
    except (KeyboardInterrupt, NeuropodError):
        raise
    except BaseException as error:  # The code of a package may raise anything, SystemExit too.
        at = place_of(error.__traceback__, root) or str(root)
        raise ModelLoadError(f"{doing} raised {type(error).__name__}: {message_of(error)}", at) from error


def _check_callable(model: object, entry_point: str) -> None:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    call = inspect.getattr_static(type(model), "__call__", None)
    if inspect.iscoroutine(model):
        model.close()
    elif callable(model) and not any(is_kind(model) or is_kind(call) for is_kind in kinds):
        return
    what = f"the entry point {entry_point!r} gave {type(model).__name__}, not a plain callable"
    raise ModelLoadError(what, remedy="return a function (no generator, not async) that takes the inputs by name")


def _device(function: Callable[..., Any], device: str) -> dict[str, str]:
    """Choose what an entry point with a parameter `device` gets; one without it decides for itself."""
    if not _takes_device(function):
        if device.startswith("cuda"):
            raise DeviceError(
                f"the package cannot be told to use {device!r}", remedy="give its entry point a parameter device"
            )
        return {}
    torch = sys.modules.get("torch")
    has_cuda = torch is not None and torch.cuda.is_available()
    if device.startswith("cuda") and torch is not None and not has_cuda:
        raise DeviceError(f"torch sees no device {device!r} here")
    return {"device": device if device != "auto" else "cuda:0" if has_cuda else "cpu"}


def _takes_device(function: Callable[..., Any]) -> bool:
    try:
        return "device" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
