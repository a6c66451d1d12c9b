"""Package a model of any framework with the problem that it solves, and run it anywhere with one call.

>>> from neuropod_core import load_neuropod
>>> with load_neuropod("digits.neuropod") as model:  # doctest: +SKIP
...     scores = model.infer({"image": images})["scores"]
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuropod_core.backend import (
        CONTRACT_VERSION,
        Array,
        Backend,
        Descriptor,
        Executor,
        LoadOptions,
        Names,
        NativeTensors,
        Tensors,
    )
    from neuropod_core.dtypes import DType
    from neuropod_core.errors import (
        BackendConflictError,
        BackendError,
        BackendNotFoundError,
        CustomOpError,
        DeadlineError,
        DeviceError,
        EnvironmentBuildError,
        ForkedModelError,
        FrameworkNotFoundError,
        FrameworkVersionError,
        InferenceError,
        InterpreterError,
        ModelClosedError,
        ModelLoadError,
        NeuropodError,
        OptionError,
        OutOfDeviceMemoryError,
        PackageError,
        PackageFormatError,
        PackageIntegrityError,
        PackageLimitError,
        PackageNotFoundError,
        PackagingError,
        PluginBlockedError,
        PluginContractError,
        PluginError,
        RequirementsError,
        ResultMismatchError,
        SandboxError,
        SharedMemoryError,
        SourceError,
        SpecError,
        TensorMismatchError,
        TrustError,
        WorkerDiedError,
        WorkerProtocolError,
        WorkerStartError,
    )
    from neuropod_core.hookspecs import hookimpl
    from neuropod_core.limits import Limits
    from neuropod_core.loading import load_neuropod
    from neuropod_core.model import Neuropod
    from neuropod_core.package import Package
    from neuropod_core.placement import IN_PROCESS, Placement, Worker
    from neuropod_core.problem import Dim, Problem, TensorSpec
    from neuropod_core.trust import Trust
    from neuropod_core.variants import Variant

__all__ = [
    "CONTRACT_VERSION",
    "IN_PROCESS",
    "Array",
    "Backend",
    "BackendConflictError",
    "BackendError",
    "BackendNotFoundError",
    "CustomOpError",
    "DType",
    "DeadlineError",
    "Descriptor",
    "DeviceError",
    "Dim",
    "EnvironmentBuildError",
    "Executor",
    "ForkedModelError",
    "FrameworkNotFoundError",
    "FrameworkVersionError",
    "InferenceError",
    "InterpreterError",
    "Limits",
    "LoadOptions",
    "ModelClosedError",
    "ModelLoadError",
    "Names",
    "NativeTensors",
    "Neuropod",
    "NeuropodError",
    "OptionError",
    "OutOfDeviceMemoryError",
    "Package",
    "PackageError",
    "PackageFormatError",
    "PackageIntegrityError",
    "PackageLimitError",
    "PackageNotFoundError",
    "PackagingError",
    "Placement",
    "PluginBlockedError",
    "PluginContractError",
    "PluginError",
    "Problem",
    "RequirementsError",
    "ResultMismatchError",
    "SandboxError",
    "SharedMemoryError",
    "SourceError",
    "SpecError",
    "TensorMismatchError",
    "TensorSpec",
    "Tensors",
    "Trust",
    "TrustError",
    "Variant",
    "Worker",
    "WorkerDiedError",
    "WorkerProtocolError",
    "WorkerStartError",
    "hookimpl",
    "load_neuropod",
]

_CONTENTS = {
    "backend": (
        *("Array", "Backend", "CONTRACT_VERSION", "Descriptor"),
        *("Executor", "LoadOptions", "Names", "NativeTensors", "Tensors"),
    ),
    "dtypes": ("DType",),
    "hookspecs": ("hookimpl",),
    "limits": ("Limits",),
    "loading": ("load_neuropod",),
    "model": ("Neuropod",),
    "package": ("Package",),
    "placement": ("IN_PROCESS", "Placement", "Worker"),
    "problem": ("Dim", "Problem", "TensorSpec"),
    "trust": ("Trust",),
    "variants": ("Variant",),
}
_HOMES = {name: module for module, names in _CONTENTS.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: importing the package itself costs nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("neuropod-core")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
