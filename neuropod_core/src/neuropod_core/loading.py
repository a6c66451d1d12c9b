"""From a package on disk to a model that can be called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend, Descriptor, LoadOptions
from neuropod_core.checks import Cast
from neuropod_core.custom_ops import for_this_machine
from neuropod_core.errors import DeviceError, NeuropodError, OptionError, PluginError, SpecError, shown
from neuropod_core.limits import Limits
from neuropod_core.model import Neuropod
from neuropod_core.package import Package
from neuropod_core.placement import IN_PROCESS, Placement
from neuropod_core.plugins import backend_for, check_framework
from neuropod_core.trust import Trust, check_trust

__all__ = ["load_neuropod", "trust_needed"]


def load_neuropod(
    source: str | os.PathLike[str],
    *,
    device: str = "cpu",
    trust: Trust | str = Trust.GRAPH,
    backend: str | None = None,
    placement: Placement = IN_PROCESS,
    checks: bool = True,
    cast: Cast = "no",
    options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    cache_dir: str | Path | None = None,
) -> Neuropod:
    """Load a package of any framework.

    Parameters
    ----------
    source
        A folder or a zip file, as a path or a ``file://`` URL.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; or ``"auto"``: an accelerator where there is one, else the CPU. Anything
        but ``"auto"`` is what runs, or an error.
    trust
        The class of artefacts to admit: ``"data"``, ``"graph"`` or ``"code"``. Code is run only for ``"code"``. The
        environment variable ``NEUROPOD_TRUST`` is a ceiling.
    backend
        The distribution whose backend to use, where several serve the platform.
    placement
        Where it runs.
    checks
        Whether inputs and outputs are held to the problem. Without checks the caller answers for them.
    cast
        Which inputs of another element type are converted: ``"no"``, or by the rules ``"safe"`` or ``"same_kind"`` of
        `numpy.can_cast`.
    options
        Options of the backend by name; ``neuropod plugins`` and its documentation list them.
    limits
        Bounds on what is read from the package.
    cache_dir
        Where archives are unpacked; None for ``NEUROPOD_CACHE_DIR`` or the user's cache folder.

    Returns
    -------
    The model, ready to be called. Close it, or use it as a context manager.

    Raises
    ------
    PackageError
        If the package cannot be read, or is not what its manifest says.
    TrustError
        If it needs more trust; no framework has seen it.
    BackendError
        If nothing here can run it, with the remedy; an `OptionError` if an argument is wrong.
    SpecError
        If the backend does not carry an element type of its problem.
    """
    given = Trust.parse(trust)
    with ExitStack() as undo, Package.open(source, limits=limits, cache_dir=cache_dir) as package:
        chosen = backend_for(package.config.platform, backend)
        _check_trust(package, chosen, given)
        version = check_framework(chosen, package.config.platform_version, f"package {package.config.name!r}")
        asked = _load_options(chosen.descriptor, device, options or {})
        _check_dtypes(package, chosen.descriptor)
        variant = for_this_machine(package.variant(), package.config.custom_op_targets)
        executor = placement.start(chosen, variant, asked)
        undo.callback(executor.close)
        model = Neuropod(package, executor, framework_version=version, checks=checks, cast=cast)
        undo.pop_all()
    plugins.notify("neuropod_model_loaded", model=model)
    return model


def trust_needed(package: Package, backend: Backend, *, look_inside: bool = True) -> tuple[Trust, str]:
    """Tell which trust a package needs to be loaded by `backend`, and why.

    Parameters
    ----------
    package, backend
        What is to be loaded, and by what.
    look_inside
        Whether backends whose artefacts differ may look at this one, for which it is verified and unpacked. Without,
        the answer is the least that it needs.

    Raises
    ------
    PackageError
        If it is not what its manifest says.
    """
    most, reason = Trust.DATA, ""
    for needed, why in _demands(package, backend, look_inside=look_inside):
        if needed.admits(most):
            most, reason = needed, why
        if needed is Trust.CODE:
            break
    return most, reason


def _load_options(descriptor: Descriptor, device: str, values: Mapping[str, Any]) -> LoadOptions:
    for name in values:
        if name not in descriptor.options:
            there = ", ".join(sorted(descriptor.options)) or "none"
            what = f"the backend for {descriptor.platform!r} has no option {shown(name)} (options: {there})"
            raise OptionError(what, remedy="leave it out or rename it")
    kind, _, number = str(device).partition(":")
    if kind != "auto" and kind not in descriptor.devices:
        there = ", ".join(descriptor.devices)
        what = f"the backend for {descriptor.platform!r} runs on {there}, not on {shown(device)}"
        raise DeviceError(what, remedy=f"pass device={descriptor.devices[0]!r}")
    if ":" in device and (kind == "auto" or not (number.isascii() and number.isdigit())):
        raise DeviceError(f"{shown(device)} is no device", remedy="write it like 'cuda:0'")
    return LoadOptions(device, MappingProxyType(dict(values)))


def _check_dtypes(package: Package, descriptor: Descriptor) -> None:
    problem = package.config.problem
    for side, specs in (("inputs", problem.inputs), ("outputs", problem.outputs)):
        for spec in specs:
            if spec.dtype not in descriptor.dtypes:
                carried = ", ".join(sorted(descriptor.dtypes))
                what = f"the backend for {descriptor.platform!r} carries {carried}; not {spec.dtype}"
                raise SpecError(what, at=f"{package.path}: {side}.{spec.name}")


def _check_trust(package: Package, backend: Backend, given: Trust) -> None:
    for needed, why in _demands(package, backend):
        check_trust(needed, given, why, str(package.path))


def _demands(package: Package, backend: Backend, *, look_inside: bool = True) -> Iterator[tuple[Trust, str]]:
    """Give each trust class that a package needs and why, what unpacks it last."""
    if package.has_custom_ops():
        yield Trust.CODE, "it brings native libraries in 0/ops"
    needed = backend.descriptor.trust
    yield needed, f"{needed} is the class of {package.config.platform} packages"
    if look_inside and type(backend).trust_needed is not Backend.trust_needed:
        needed = _looked_inside(package, backend)
        yield needed, f"this one holds {needed}"


def _looked_inside(package: Package, backend: Backend) -> Trust:
    variant = package.variant()
    try:
        return Trust.parse(backend.trust_needed(variant))
    except NeuropodError:
        raise
    except Exception as error:  # A backend reads what somebody else wrote; what it forgot ends here.
        what = f"its trust_needed raised {type(error).__name__} for {package.path}: {error}"
        raise PluginError(type(backend).__module__, what, "tell its author") from error
