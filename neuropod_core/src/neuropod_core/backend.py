"""What the author of a backend implements: a `Descriptor`, a `Backend` and an `Executor`.

A plugin is a module (or any object) that an entry point of the group ``neuropod.backends`` names, one entry point for
each platform. It states the contract that it was written for and answers one hook::

    from neuropod_core import Backend, Descriptor, Executor, Trust, hookimpl

    neuropod_contract = (1, 1)

    class Echo(Backend):
        descriptor = Descriptor(platform="echo", trust=Trust.DATA)

        def load(self, variant, options):
            return EchoExecutor()

    @hookimpl
    def neuropod_backend(platform):
        return Echo()

Importing it imports no framework; `Backend.load` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from neuropod_core.dtypes import DType
from neuropod_core.errors import NeuropodError, OptionError, PluginError, SpecError, shown, worded
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant

__all__ = [
    "CONTRACT_VERSION",
    "Array",
    "Backend",
    "Descriptor",
    "Executor",
    "LoadOptions",
    "Names",
    "NativeTensors",
    "Tensors",
]

CONTRACT_VERSION = (1, 1)
"""Version (major, minor) of what this module, the hooks and `Variant` promise to plugins."""

Array = np.ndarray[Any, np.dtype[Any]]
"""A NumPy array; strings are arrays of objects of type `str`."""

Tensors = dict[str, Array]
"""Tensors by name."""

NativeTensors = dict[str, Any]
"""Tensors by name, each NumPy's or a framework's own: with ``shape``, ``dtype`` and ``__dlpack__``, on any device."""

Names = Sequence[str] | None
"""Names of outputs to compute; None for all of them."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Descriptor:
    """What a backend can do, as plain data: reading it imports no framework.

    Parameters
    ----------
    platform
        The artefact kind that it opens.
    trust
        The class of artefacts of this kind; a library in ``ops/`` makes any artefact ``code``.
    framework
        The distributions that carry the framework, any of which will do; the first one found gives its version.
        Empty if there is none.
    framework_versions
        The range of versions that the backend was made for (PEP 440, ``">=2.4"``); a version outside is refused.
    install
        What to run if the framework is missing: ``pip install 'neuropod-onnx[cpu]'``.
    dtypes
        The element types that it carries in and out.
    devices
        Kinds of device that it can use: ``cpu``, ``cuda``.
    options
        The options that `Backend.load` takes, each with one sentence about it.
    packagers
        Functions that write packages for it: public name -> ``module:function``, imported when asked for.
    packs
        What is packaged without a line of code, by ``neuropod pack``: a pattern for the name of a file (``"*.pt"``), or
        of a folder (``"*/"``) -> ``packager:keyword``, one of `packagers` and the keyword that takes such a path.
    stateful
        Whether executors keep state between calls that changes later results.
    """

    platform: str
    trust: Trust
    framework: tuple[str, ...] = ()
    framework_versions: str = ""
    install: str = ""
    dtypes: frozenset[DType] = frozenset(DType)
    devices: tuple[str, ...] = ("cpu",)
    options: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    packagers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    stateful: bool = False
    packs: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        if not self.platform:
            raise SpecError("a descriptor names its platform")
        object.__setattr__(self, "trust", Trust.parse(self.trust))
        for name in ("framework", "devices"):  # One name, not in a tuple, is an easy slip.
            value: object = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else value)
        for name in ("options", "packagers", "packs"):
            if not isinstance(getattr(self, name), Mapping):
                raise SpecError(f"expected {name} of a descriptor as a dictionary, got {shown(getattr(self, name))}")
        object.__setattr__(self, "dtypes", frozenset(map(DType.parse, self.dtypes)))


@dataclass(frozen=True)
class LoadOptions:
    """What the caller of `load_neuropod` asks of a backend.

    Parameters
    ----------
    device
        ``cpu``; ``cuda`` or ``cuda:1``; or ``auto``: an accelerator where there is one, else the CPU. Anything but
        ``auto`` is meant: a backend that cannot have it raises `DeviceError` and never runs elsewhere.
    values
        Options by name, all of them among `Descriptor.options`.
    trust
        The class of artefacts that the caller admits; it was checked already.
    """

    device: str = "cpu"
    values: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    trust: Trust = Trust.CODE

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int | None:
        """Give the option `name` as an int of at least `least`, or `default` where it was not given.

        Raises
        ------
        OptionError
            If the value is no such number.
        """
        value: object = self.values.get(name, default)
        if value is default or (type(value) is int and value >= least):
            return value
        raise OptionError(f"option {name!r} is an int of at least {least}, not {shown(value)}")

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Give the option `name` as a bool, or `default` where it was not given.

        Raises
        ------
        OptionError
            If the value is no bool.
        """
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise OptionError(f"option {name!r} is true or false, not {shown(value)}")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        """Give the option `name` as a `str`, or `default` where it was not given.

        Raises
        ------
        OptionError
            If the value is no text.
        """
        value = self.values.get(name, default)
        if value is not default and not isinstance(value, str):
            raise OptionError(f"option {name!r} is a text, not {shown(value)}")
        return value


class Executor(ABC):
    """A loaded thing that runs: one model, in this process or wherever its placement put it.

    `thread_safe` says whether `infer` may run in several threads at once; where it is False, calls are queued for it.
    `serial` says that one that is safe lets one call in at a time by itself: nothing is gained by threads.
    `stateful` says whether a call changes what later calls give. `takes_native` says whether `infer` takes tensors of
    frameworks that NumPy cannot view, such as those on a device, beside arrays: objects with ``__dlpack__``.
    """

    thread_safe: bool = True
    serial: bool = False
    stateful: bool = False
    takes_native: bool = False

    @abstractmethod
    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model once.

        Parameters
        ----------
        inputs
            Checked arrays by name, native byte order, of any memory layout, perhaps read-only. Read, never written,
            and not kept after the call; the dictionary is not changed either. Optional ones may be missing.
        outputs
            Names to compute; None for all. Only those are returned.

        Returns
        -------
        Arrays by name which belong to the caller: they share no memory with inputs, model state or earlier results.

        Raises
        ------
        InferenceError
            If the framework fails; its own error is the ``__cause__``.
        """

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Run the model once, and leave the results as the framework's own tensors, on their device.

        Parameters
        ----------
        inputs
            As in `infer`, with tensors of any framework among them: objects with ``shape``, ``dtype`` and
            ``__dlpack__``, checked by their attributes, on any device. Text is an array of `str` objects.
        outputs
            Names to compute; None for all. Only those are returned.

        Returns
        -------
        Tensors by name with ``shape``, ``dtype`` and ``__dlpack__``, which belong to the caller: they share no memory
        with inputs, model state or earlier results. Text is an array of `str` objects.

        Raises
        ------
        OptionError
            If the backend gives no native tensors, as is the default.
        InferenceError
            If the framework fails; its own error is the ``__cause__``.
        """
        del inputs, outputs
        raise OptionError("this backend gives no native tensors", "result='native'", "leave result out: arrays come")

    def infer_within(self, timeout_s: float | None, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model once, and wait no longer than `timeout_s` where that is possible; here it is not.

        Raises
        ------
        DeadlineError
            If the time is up before the results are there.
        """
        del timeout_s
        return self.infer(inputs, outputs)

    def infer_native_within(
        self, timeout_s: float | None, inputs: NativeTensors, outputs: Names = None
    ) -> NativeTensors:
        """Run the model once as `infer_native` does, with the time limit of `infer_within`."""
        del timeout_s
        return self.infer_native(inputs, outputs)

    async def infer_async(self, inputs: Tensors, outputs: Names = None, timeout_s: float | None = None) -> Tensors:
        """Run the model once while the event loop goes on: in a thread, unless the placement knows better."""
        import asyncio  # Slow to import; whoever awaits has it.

        return await asyncio.to_thread(self.infer_within, timeout_s, inputs, outputs)

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Give an array, its content undefined, where the executor reads inputs without a copy."""
        if dtype is DType.STRING:
            return np.full(shape, "", dtype=object)
        return np.empty(shape, dtype.numpy)

    def stats(self) -> Mapping[str, object]:
        """Count what has happened so far; nothing where nothing is counted."""
        return _NOTHING

    @abstractmethod
    def close(self) -> None:
        """Free what the model holds.

        Called once. A call that still runs in another thread ends or raises; it does not crash the process.
        """

    @property
    def description(self) -> Mapping[str, object]:
        """Facts about what runs, for people and logs: framework version, device, threads."""
        return _NOTHING


class Backend(ABC):
    """Opens the artefacts of one platform."""

    descriptor: Descriptor

    @abstractmethod
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open an artefact; the framework is imported here and no earlier.

        The caller has verified the files, admitted the trust class, and checked framework version and option names.

        Raises
        ------
        ModelLoadError
            If the framework refuses the artefact.
        DeviceError
            If the device asked for is not there.
        OptionError
            If an option has a value that it cannot have.
        """

    def framework_version(self) -> str | None:
        """Give the installed version of the framework, found without importing it; None if it is not installed.

        A platform without a framework answers with what its packages' version range speaks of.
        """
        from importlib import metadata

        for distribution in self.descriptor.framework:
            with suppress(metadata.PackageNotFoundError):
                return metadata.version(distribution)
        return None

    def thread_settings(self) -> Mapping[str, Any]:
        """Give the thread settings of the framework in this process, for a worker to take over; plain data.

        A framework that is not imported here has none, and is not imported for this. By default there are none beside
        the environment variables, which workers inherit.
        """
        return _NOTHING

    def apply_thread_settings(self, settings: Mapping[str, Any]) -> None:
        """Take over, in a worker and before `load`, what `thread_settings` gave in its parent.

        Called only where there are any. Names that this release of the backend does not know are left alone.
        """
        del settings

    def trust_needed(self, variant: Variant) -> Trust:
        """Give the class of this one artefact, where it is more than `Descriptor.trust`; never run it for that."""
        del variant
        return self.descriptor.trust


def trust_of(backend: Backend, variant: Variant, place: str) -> Trust:
    """Have a backend look at an artefact, and say which trust it needs.

    Raises
    ------
    PluginError
        If it raises anything but a `NeuropodError`.
    """
    try:
        return Trust.parse(backend.trust_needed(variant))
    except NeuropodError:
        raise
    except Exception as error:  # A backend reads what somebody else wrote; what it forgot ends here.
        what = f"its trust_needed raised {worded(error)} for {place}"
        raise PluginError(type(backend).__module__, what, "tell its author") from error
