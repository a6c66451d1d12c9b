"""Plugins as they are named on the command line, and the conformance suites that they ship."""

from __future__ import annotations

from neuropod_core._entry_points import entries
from neuropod_core.errors import BackendError
from neuropod_core.hookspecs import TESTS_GROUP
from neuropod_core.plugins import Plugin, installed, normalized

__all__ = ["named", "suite_of"]


def named(name: str) -> list[Plugin]:
    """Find the plugins of the distribution `name`, or those that serve the platform `name`.

    Raises
    ------
    BackendError
        If there is none.
    """
    everybody = installed()
    found = [plugin for plugin in everybody if normalized(plugin.distribution) == normalized(name)]
    found = found or [plugin for plugin in everybody if plugin.platform == name]
    if not found:
        there = ", ".join(sorted({plugin.distribution for plugin in everybody})) or "none"
        what = f"no installed plugin or platform is named {name!r} (installed: {there})"
        raise BackendError(what, remedy="run: neuropod plugins list")
    return found


def suite_of(plugin: Plugin) -> str | None:
    """Give the class, ``module:Class``, of the conformance suite that a plugin ships for its platform."""
    for entry in entries(TESTS_GROUP):
        if entry.name == plugin.platform and normalized(entry.distribution) == normalized(plugin.distribution):
            return entry.value
    return None
