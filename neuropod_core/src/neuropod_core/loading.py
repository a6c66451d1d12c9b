"""From a package on disk to a model that can be called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend, Descriptor, LoadOptions, trust_of
from neuropod_core.checks import Casts
from neuropod_core.custom_ops import for_this_machine
from neuropod_core.errors import DeviceError, OptionError, SpecError, shown
from neuropod_core.limits import Limits
from neuropod_core.model import Neuropod
from neuropod_core.package import Package
from neuropod_core.placement import Placement, placement_of
from neuropod_core.plugins import check_framework
from neuropod_core.sources import OnTransfer
from neuropod_core.trust import Trust, check_trust

__all__ = ["load_neuropod", "trust_needed"]

SANDBOXED = "sandboxed"
"""What to pass as trust to admit anything, in a worker whose sandbox stands in for trust."""


def load_neuropod(
    source: str | os.PathLike[str],
    *,
    device: str = "cpu",
    trust: Trust | str = Trust.GRAPH,
    backend: str | None = None,
    placement: Placement | str = "in_process",
    checks: bool = True,
    cast: Casts = "no",
    options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    cache_dir: str | Path | None = None,
    on_transfer: OnTransfer | None = None,
) -> Neuropod:
    """Load a package of any framework.

    Parameters
    ----------
    source
        A folder or a zip file: a path, or a URL as `Package.open` takes it, ``s3://...`` or ``package+https://...``;
        ``#sha256=<hex>`` at its end is the hash that the archive must have.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; or ``"auto"``: an accelerator where there is one, else the CPU. Anything
        but ``"auto"`` is what runs, or an error.
    trust
        The class of artefacts to admit: ``"data"``, ``"graph"`` or ``"code"``. Code is run only for ``"code"``; or for
        ``"sandboxed"``, which admits everything into a worker that can neither reach the network nor write files. The
        environment variable ``NEUROPOD_TRUST`` is a ceiling.
    backend
        The distribution whose backend to use, where several serve the platform.
    placement
        Where it runs: ``"in_process"``; ``"worker"``, in another process of this machine; or a `Placement` with
        settings, such as ``Worker(replicas=4)``.
    checks
        Whether inputs and outputs are held to the problem. Without checks the caller answers for them.
    cast
        Which inputs of another element type are converted: ``"no"``, or by the rules ``"safe"`` or ``"same_kind"`` of
        `numpy.can_cast`, as long as no value is lost; for all inputs, or by name: ``{"image": "same_kind"}``. Where it
        is asked for, nested lists and plain values are taken too.
    options
        Options of the backend by name; ``neuropod plugins`` and its documentation list them.
    limits
        Bounds on what is read from the package.
    cache_dir
        Where archives are unpacked; None for ``NEUROPOD_CACHE_DIR`` or the user's cache folder.
    on_transfer
        Told how far the transfer of a package behind a URL is; the logger ``neuropod`` tells it too.

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
    place = placement_of(placement)
    place, given = (place.sandboxed(), Trust.CODE) if trust == SANDBOXED else (place, Trust.parse(trust))
    opened = Package.open(source, limits=limits, cache_dir=cache_dir, on_transfer=on_transfer)
    with ExitStack() as undo, opened as package:
        chosen = place.backend(package, backend, given)
        _check_trust(package, chosen, given)
        version = check_framework(chosen, package.config.platform_version, f"package {package.config.name!r}")
        asked = _load_options(chosen.descriptor, device, options or {}, given)
        _check_dtypes(package, chosen.descriptor)
        variant = for_this_machine(package.variant(), package.config.custom_op_targets)
        executor = place.start(chosen, variant, asked)
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


def _load_options(descriptor: Descriptor, device: str, values: Mapping[str, Any], trust: Trust) -> LoadOptions:
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
    return LoadOptions(device, MappingProxyType(dict(values)), trust)


def _check_dtypes(package: Package, descriptor: Descriptor) -> None:
    problem = package.config.problem
    for side, specs in (("inputs", problem.inputs), ("outputs", problem.outputs)):
        for spec in specs:
            if spec.dtype not in descriptor.dtypes:
                carried = ", ".join(sorted(descriptor.dtypes))
                what = f"the backend for {descriptor.platform!r} carries {carried}; not {spec.dtype}"
                raise SpecError(what, at=f"{package.place}: {side}.{spec.name}")


def _check_trust(package: Package, backend: Backend, given: Trust) -> None:
    for needed, why in _demands(package, backend):
        check_trust(needed, given, why, package.place)


def _demands(package: Package, backend: Backend, *, look_inside: bool = True) -> Iterator[tuple[Trust, str]]:
    """Give each trust class that a package needs and why, what unpacks it last."""
    if package.has_custom_ops():
        yield Trust.CODE, "it brings native libraries in 0/ops"
    needed = backend.descriptor.trust
    yield needed, f"{needed} is the class of {package.config.platform} packages"
    if look_inside and type(backend).trust_needed is not Backend.trust_needed:
        needed = trust_of(backend, package.variant(), package.place)
        yield needed, f"this one holds {needed}"
