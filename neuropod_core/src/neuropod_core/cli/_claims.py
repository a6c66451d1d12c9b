"""What is known of an installed plugin without importing its framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuropod_core.backend import Backend
from neuropod_core.errors import BackendConflictError, BackendError, NeuropodError, PluginBlockedError, PluginError
from neuropod_core.plugins import Plugin, check_framework, installed

__all__ = ["Claim", "broken", "claims"]


@dataclass(frozen=True)
class Claim:
    """A plugin's claim to a platform, tried.

    Attributes
    ----------
    status
        ``ok``, ``blocked``, ``broken``, ``conflict`` or ``no-framework``.
    error
        Why it is not ``ok``.
    backend
        None if it cannot be had.
    framework_version
        The version that is installed; None if none is.
    """

    plugin: Plugin
    status: str = "ok"
    error: NeuropodError | None = None
    backend: Backend | None = None
    framework_version: str | None = None

    @property
    def framework(self) -> str:
        """Name and version of the framework, as far as they are known."""
        names = self.backend.descriptor.framework if self.backend else ()
        return f"{names[0]} {self.framework_version or 'not installed'}" if names else ""


def claims(platform: str | None = None) -> list[Claim]:
    """Try every plugin that is installed, or those that claim `platform`."""
    plugins = [plugin for plugin in installed() if platform in (None, plugin.platform)]
    return [_tried(plugin, plugins) for plugin in plugins]


def _tried(plugin: Plugin, plugins: Sequence[Plugin]) -> Claim:
    try:
        return _judged(plugin, plugins)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and the others are to be seen
        return broken(plugin, error)


def _judged(plugin: Plugin, plugins: Sequence[Plugin]) -> Claim:
    try:
        backend = plugin.backend()
    except PluginBlockedError as error:
        return Claim(plugin, "blocked", error)
    except BackendError as error:
        return Claim(plugin, "broken", error)
    rivals = [other for other in plugins if other.platform == plugin.platform and not other.blocked_by]
    version = backend.framework_version()
    if len(rivals) > 1:
        conflict = BackendConflictError(plugin.platform, tuple(rival.distribution for rival in rivals))
        return Claim(plugin, "conflict", conflict, backend, version)
    try:
        check_framework(backend)
    except NeuropodError as error:
        return Claim(plugin, "no-framework", error, backend, version)
    return Claim(plugin, "ok", None, backend, version)


def broken(plugin: Plugin, error: Exception) -> Claim:
    """Give the claim of a plugin whose description cannot be used."""
    reason = f"describing it raised {type(error).__name__}: {error}"
    return Claim(plugin, "broken", PluginError(str(plugin), reason, "tell its author"))
