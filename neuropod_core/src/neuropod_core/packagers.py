"""The packagers that the installed plugins offer, each importable from here by its name.

>>> from neuropod_core.packagers import create_torchscript_neuropod  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from neuropod_core import plugins
from neuropod_core.errors import BackendError

__all__ = ["available"]


def available() -> dict[str, str]:
    """List the packagers that can be had here: name -> ``module:function``; plugins that are broken offer none."""
    offered: dict[str, str] = {}
    for plugin in plugins.installed():
        for name, target in _offered_by(plugin).items():
            offered.setdefault(name, target)
    return dict(sorted(offered.items()))


def _offered_by(plugin: plugins.Plugin) -> dict[str, str]:
    try:
        return dict(plugin.backend().descriptor.packagers)
    except (BackendError, TypeError, ValueError):  # Broken, or a descriptor with something else in this place.
        return {}


def _target_of(name: str) -> str | None:
    """Look at plugins whose platform the name holds first: most often, no other is imported."""
    likely_first = sorted(plugins.installed(), key=lambda plugin: plugin.platform not in name)
    return next((target for plugin in likely_first if (target := _offered_by(plugin).get(name))), None)


def __getattr__(name: str) -> Callable[..., None]:
    target = None if name.startswith("__") else _target_of(name)
    if target is None:
        there = ", ".join(available()) or "none" if not name.startswith("__") else ""
        raise AttributeError(f"no installed plugin offers the packager {name!r} (offered: {there})")
    module, _, function = target.partition(":")
    packager: Callable[..., None] = getattr(import_module(module), function)
    return packager


def __dir__() -> list[str]:
    return sorted([*__all__, *available()])
