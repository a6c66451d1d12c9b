"""From the name of a platform to the backend that serves it: one plugin is imported, the others are not."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import pluggy

from neuropod_core import hookspecs
from neuropod_core._blame import blaming
from neuropod_core._entry_points import Entry, entries
from neuropod_core.backend import CONTRACT_VERSION, Backend, Descriptor
from neuropod_core.errors import (
    BackendConflictError,
    BackendNotFoundError,
    FrameworkNotFoundError,
    FrameworkVersionError,
    NeuropodError,
    PackageFormatError,
    PluginBlockedError,
    PluginContractError,
    PluginError,
    shown,
)

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = [
    "BLOCKED_VARIABLE",
    "Plugin",
    "backend_for",
    "block",
    "check_framework",
    "claim_of",
    "installed",
    "normalized",
    "notify",
    "observers",
    "register",
    "unblock",
    "unregister",
]

BLOCKED_VARIABLE = "NEUROPOD_BLOCKED_PLUGINS"
"""Environment variable: names of distributions, separated by commas, whose plugins are not used."""

_SPACED_OPERATOR = re.compile(r"([<>=~^])\s+")  # npm takes ">= 2", the library that reads ranges does not.
_FIRST_PARTY = {
    "torchscript": "torch",
    "torch_export": "torch",
    "torch_aoti": "torch",
    "tensorflow": "tf",
    "onnx": "onnx",
    "python": "python",
}

_logger = logging.getLogger("neuropod")
_blocked: set[str] = set()
_registered: dict[str, tuple[Plugin, object]] = {}
_backends: dict[Plugin, Backend] = {}


@dataclass(frozen=True, order=True)
class Plugin:
    """One claim to a platform: which distribution makes it, and where its plugin object is."""

    platform: str
    distribution: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def blocked_by(self) -> str:
        """What blocks it; empty if nothing does."""
        return _blocked_by(self.distribution)

    def backend(self) -> Backend:
        """Import the plugin and ask it for its backend; once per process.

        Raises
        ------
        PluginBlockedError
            If it is blocked.
        PluginError
            If it is broken, with the reason.
        """
        if self.blocked_by:
            raise PluginBlockedError(str(self), self.blocked_by)
        if self not in _backends:
            _backends[self] = _asked(self, self.imported())
        return _backends[self]

    def imported(self) -> object:
        """Import what the entry point names, and ask it nothing.

        Raises
        ------
        PluginError
            If it cannot be imported, whatever it raises.
        """
        if self.platform in _registered:
            return _registered[self.platform][1]
        with _blaming(self, f"importing {self.target}"):
            return _loaded(self.platform, self.target)


def installed() -> tuple[Plugin, ...]:
    """List every claim to a platform that is installed or registered here, importing none."""
    return tuple(sorted(set(_claims())))


def backend_for(platform: str, distribution: str | None = None) -> Backend:
    """Find the backend that serves `platform`, or the one of `distribution` where several do.

    Raises
    ------
    BackendNotFoundError
        If no plugin claims it; the error names the package to install.
    BackendConflictError
        If several do and none was chosen.
    PluginBlockedError, PluginError
        If the one that does cannot be used.
    """
    claims = [plugin for plugin in dict.fromkeys(_claims(platform)) if _is_from(plugin, distribution)]
    usable = [plugin for plugin in claims if not plugin.blocked_by] or claims
    match usable:
        case []:
            raise _not_found(platform, distribution)
        case [only, *others] if not others or only.blocked_by:  # Blocked, all of them are.
            return only.backend()
        case rivals:
            raise BackendConflictError(platform, tuple(sorted(rival.distribution for rival in rivals)))


def check_framework(backend: Backend, version_range: str = "*", asked_by: str = "the package") -> str:
    """Compare the installed framework with what the backend, then the package, asks for; give its version.

    `version_range` is an npm-style range (``>=2.1 <3 || 3.x``), compared with the release part of the version alone.

    Raises
    ------
    FrameworkNotFoundError, FrameworkVersionError
        With the command that mends it.
    PackageFormatError
        If `version_range` is no range.
    """
    descriptor = backend.descriptor
    version = backend.framework_version()
    if version is None:
        return _without_framework(descriptor)
    framework = descriptor.framework[0] if descriptor.framework else descriptor.platform
    if descriptor.framework_versions and not _in_specifier(version, descriptor):
        asked = f"the backend for {descriptor.platform!r}"
        raise FrameworkVersionError(framework, descriptor.framework_versions, version, asked, _install(descriptor))
    if not _in_npm_range(version, version_range, asked_by):
        raise FrameworkVersionError(framework, version_range, version, asked_by, "install a version in that range")
    return version


def claim_of(backend: Backend) -> Plugin | None:
    """Tell which plugin gave `backend`, so that another process can import it; None if it exists in this one only."""
    for claim, given in _backends.items():
        if given is backend:
            return claim if claim.platform not in _registered else _importable(claim)
    return None


def _importable(claim: Plugin) -> Plugin | None:
    plugin = _registered[claim.platform][1]
    spec = getattr(plugin, "__spec__", None) if isinstance(plugin, ModuleType) else None
    return replace(claim, target=spec.name) if spec is not None and spec.origin else None


def block(distribution: str) -> None:
    """Use no plugin of `distribution` from now on, in this process."""
    _blocked.add(normalized(distribution))


def unblock(distribution: str) -> None:
    """Take `block` back."""
    _blocked.discard(normalized(distribution))


def register(plugin: object, platform: str, name: str = "") -> None:
    """Let `plugin`, an object or module that answers the hooks, serve `platform` in this process, uninstalled."""
    title = name or getattr(plugin, "__name__", type(plugin).__name__)
    unregister(platform)
    _registered[platform] = Plugin(platform, title, "", title), plugin


def unregister(platform: str) -> None:
    """Take `register` back."""
    claim, _ = _registered.pop(platform, (None, None))
    if claim is not None:
        _backends.pop(claim, None)


@lru_cache(maxsize=1)
def observers() -> pluggy.PluginManager:
    """Give the plugins that watch, found once in the group ``neuropod.observers``; broken ones are logged."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for entry in entries(hookspecs.OBSERVERS_GROUP):
        if not _blocked_by(entry.distribution):
            _add_observer(manager, entry)
    return manager


def _add_observer(manager: pluggy.PluginManager, entry: Entry) -> None:
    try:
        manager.register(_loaded(entry.name, entry.value))  # By its own name: two entries may be called the same.
    except KeyboardInterrupt:
        raise
    except BaseException:  # An observer may raise anything, SystemExit too; the model it would watch must load.
        _logger.exception("observer %r cannot be used, it comes from %s", entry.name, entry.distribution)


def notify(hook: str, **facts: object) -> None:
    """Tell the observers; what they raise is logged and dropped."""
    if not observers().get_plugins():
        return
    try:
        getattr(observers().hook, hook)(**facts)
    except Exception:  # Watching must not change what happens to the model.
        _logger.exception("an observer failed in %s", hook)


def _claims(platform: str | None = None) -> Iterable[Plugin]:
    for entry in entries(hookspecs.BACKENDS_GROUP):
        if platform in (None, entry.name) and entry.name not in _registered:
            yield Plugin(entry.name, entry.distribution, entry.version, entry.value)
    for name, (plugin, _) in _registered.items():
        if platform in (None, name):
            yield plugin


def _loaded(name: str, target: str) -> object:
    from importlib import metadata  # Slow to import, and not needed until a package is opened.

    return metadata.EntryPoint(name, target, hookspecs.BACKENDS_GROUP).load()


def _blaming(plugin: Plugin, doing: str) -> AbstractContextManager[None]:
    installed_as = "" if plugin.platform in _registered else plugin.distribution
    return blaming(str(plugin), plugin.target, doing, installed_as)


def _blocked_by(distribution: str) -> str:
    name = normalized(distribution)
    if name in _blocked:
        return "a call of neuropod_core.plugins.block"
    if name in map(normalized, os.environ.get(BLOCKED_VARIABLE, "").split(",")):
        return f"the environment variable {BLOCKED_VARIABLE}"
    return ""


def _asked(plugin: Plugin, module: object) -> Backend:
    with _blaming(plugin, "reading its neuropod_contract"):
        contract = getattr(module, "neuropod_contract", None)
    _check_contract(plugin, contract)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    with _blaming(plugin, "its hook neuropod_backend"):
        manager.register(module, name=str(plugin))
        backend = manager.hook.neuropod_backend(platform=plugin.platform)
    if not manager.hook.neuropod_backend.get_hookimpls():
        raise _without_hook(plugin, module)
    return _checked_backend(plugin, backend)


def _without_hook(plugin: Plugin, module: object) -> PluginError:
    if callable(getattr(module, "neuropod_backend", None)):
        return PluginError(
            str(plugin), "its function neuropod_backend is not marked as a hook", "put @hookimpl above it"
        )
    return PluginError(
        str(plugin), "it has no hook neuropod_backend", f"write one into {plugin.target}, with @hookimpl"
    )


def _checked_backend(plugin: Plugin, backend: object) -> Backend:
    if not isinstance(backend, Backend):
        reason = f"its hook neuropod_backend gave {shown(backend)} for {plugin.platform!r}, not a Backend"
        is_class = isinstance(backend, type) and issubclass(backend, Backend)
        raise PluginError(str(plugin), reason, "give an instance of it" if is_class else "tell its author")
    with _blaming(plugin, "reading its descriptor"):
        descriptor = getattr(backend, "descriptor", None)
    if not isinstance(descriptor, Descriptor):
        reason = f"its backend has {shown(descriptor)} as descriptor"
        raise PluginError(str(plugin), reason, f"write descriptor = Descriptor(...) into {type(backend).__name__}")
    if descriptor.platform != plugin.platform:
        reason = f"its backend describes {descriptor.platform!r} where {plugin.platform!r} was asked for"
        raise PluginError(str(plugin), reason, "name the entry point as Descriptor.platform says")
    return backend


def _check_contract(plugin: Plugin, contract: object) -> None:
    ours = ".".join(map(str, CONTRACT_VERSION))
    if not _is_version(contract):
        reason = f"it states no contract version, neuropod_contract is {shown(contract)}, this core serves {ours}"
        raise PluginContractError(
            str(plugin), reason, f"put neuropod_contract = {CONTRACT_VERSION} into {plugin.target}"
        )
    theirs = ".".join(map(str, contract))
    if contract > CONTRACT_VERSION:
        reason = f"it was written for contract {theirs}, this core serves up to {ours}"
        raise PluginContractError(str(plugin), reason, "run: pip install --upgrade neuropod-core")
    if contract[0] < max(1, CONTRACT_VERSION[0] - 1):
        reason = f"it was written for contract {theirs}, this core serves {ours} and the major version before"
        raise PluginContractError(str(plugin), reason, f"run: pip install --upgrade {plugin.distribution}")


def _is_version(contract: object) -> TypeGuard[tuple[int, int]]:
    if not isinstance(contract, tuple) or len(contract) != len(CONTRACT_VERSION):
        return False
    return all(type(part) is int and part >= 0 for part in contract)


def _is_from(plugin: Plugin, distribution: str | None) -> bool:
    return distribution is None or normalized(plugin.distribution) == normalized(distribution)


def _not_found(platform: str, distribution: str | None) -> NeuropodError:
    if distribution is not None:
        rivals = tuple(sorted(plugin.distribution for plugin in _claims(platform)))
        return BackendNotFoundError(platform, rivals, f"run: pip install {distribution}", distribution)
    platforms = tuple(sorted({plugin.platform for plugin in installed()}))
    if platform in _FIRST_PARTY:
        return BackendNotFoundError(platform, platforms, f"run: pip install neuropod-{_FIRST_PARTY[platform]}")
    return BackendNotFoundError(platform, platforms, "install the plugin that serves it")


def _without_framework(descriptor: Descriptor) -> str:
    if not descriptor.framework:
        return ""
    wanted = " or ".join(descriptor.framework)
    what = f"the backend for {descriptor.platform!r} needs {wanted}, which is not installed"
    raise FrameworkNotFoundError(what, remedy=_install(descriptor))


def _install(descriptor: Descriptor) -> str:
    if descriptor.install:
        return f"run: {descriptor.install}"
    only_one = len(descriptor.framework) == 1
    return f"run: pip install {descriptor.framework[0]}" if only_one else "install one of them"


def _in_specifier(version: str, descriptor: Descriptor) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(descriptor.framework_versions).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        reason = f"its framework_versions {shown(descriptor.framework_versions)} is no range of versions"
        raise PluginError(descriptor.platform, reason, "write it as pip takes it: '>=2,<3'") from error


def _in_npm_range(version: str, version_range: str, asked_by: str) -> bool:
    if version_range.strip() in ("", "*"):
        return True
    from packaging.version import InvalidVersion
    from packaging.version import Version as Release
    from semantic_version import NpmSpec, Version

    try:
        spec = NpmSpec(_SPACED_OPERATOR.sub(r"\1", version_range))
    except (ValueError, AttributeError):  # The parser looks into matches that it did not find, such as in 'a - b'.
        what = f"platform_version_semver {shown(version_range)} is no npm-style version range"
        raise PackageFormatError(what, at=asked_by, remedy="write it like '>=2.1 <3' or '2.x'") from None
    try:
        major, minor, patch = (*Release(version).release, 0, 0)[:3]
    except InvalidVersion:
        return False
    return bool(spec.match(Version(major=major, minor=minor, patch=patch)))


def normalized(name: str) -> str:
    """Write the name of a distribution as PyPI compares it: lower case, with ``-`` for ``_`` and ``.``."""
    return re.sub(r"[-_.]+", "-", name.strip().lower())
