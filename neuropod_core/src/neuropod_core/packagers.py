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
        try:
            packagers = plugin.backend().descriptor.packagers
        except BackendError:
            continue
        for name, target in packagers.items():
            offered.setdefault(name, target)
    return dict(sorted(offered.items()))


def __getattr__(name: str) -> Callable[..., None]:
    target = None if name.startswith("__") else available().get(name)
    if target is None:
        there = ", ".join(available()) or "none" if not name.startswith("__") else ""
        raise AttributeError(f"no installed plugin offers the packager {name!r} (offered: {there})")
    module, _, function = target.partition(":")
    packager: Callable[..., None] = getattr(import_module(module), function)
    return packager


def __dir__() -> list[str]:
    return sorted([*__all__, *available()])
