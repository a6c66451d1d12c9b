"""The packagers that the installed plugins offer, each importable from here by its name.

>>> from neuropod_core.packagers import create_torchscript_neuropod  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

from neuropod_core import plugins
from neuropod_core.backend import Descriptor
from neuropod_core.errors import BackendError, PackagingError, PluginError

__all__ = ["available", "packager_for"]

_logger = logging.getLogger("neuropod")


def available() -> dict[str, str]:
    """List the packagers that can be had here: name -> ``module:function``; plugins that are broken offer none."""
    offered: dict[str, str] = {}
    for plugin in plugins.installed():
        for name, target in _offered_by(plugin).items():
            offered.setdefault(name, target)
    return dict(sorted(offered.items()))


def packager_for(descriptor: Descriptor, path: Path) -> tuple[Callable[..., None], str]:
    """Find what packages the file or folder at `path`, by `Descriptor.packs`: a packager, and the keyword for the path.

    Raises
    ------
    PackagingError
        If nothing is there, or no pattern fits it.
    PluginError
        If the packager cannot be imported.
    """
    if not path.exists():
        raise PackagingError("there is no such file or folder", at=str(path), remedy="check the path")
    name = f"{path.absolute().name}/" if path.is_dir() else path.name
    target = next((target for pattern, target in descriptor.packs.items() if fnmatchcase(name, pattern)), None)
    if target is None:
        raise _unpackable(descriptor, path)
    packager, _, keyword = target.partition(":")
    try:
        return _imported(descriptor.packagers[packager]), keyword
    except (ImportError, AttributeError, KeyError) as error:
        what = f"the packager {packager} of {descriptor.platform!r} cannot be had: {type(error).__name__}: {error}"
        raise PluginError(descriptor.platform, what, "reinstall the plugin, or tell its author") from error


def _unpackable(descriptor: Descriptor, path: Path) -> PackagingError:
    by_code = ", ".join(descriptor.packagers) or "a packager of its author"
    if not descriptor.packs:
        what = f"{descriptor.platform} packages are not made of one file or folder"
        return PackagingError(what, at=str(path), remedy=f"write a line of Python that calls {by_code}")
    kinds = ", ".join("a folder" if pattern == "*/" else pattern for pattern in descriptor.packs)
    got = "a folder" if path.is_dir() else f"a file called {path.name!r}"
    return PackagingError(f"{descriptor.platform} packages are made of {kinds}, got {got}", at=str(path))


def _imported(target: str) -> Callable[..., None]:
    module, _, function = target.partition(":")
    packager: Callable[..., None] = getattr(import_module(module), function)
    return packager


def _offered_by(plugin: plugins.Plugin) -> dict[str, str]:
    try:
        return dict(plugin.backend().descriptor.packagers)
    except (BackendError, TypeError, ValueError):  # Broken, or a descriptor with something else in this place.
        return {}


def _target_of(name: str) -> str | None:
    """Look at plugins whose platform the name holds first: most often, no other is imported."""
    likely_first = sorted(plugins.installed(), key=lambda plugin: plugin.platform not in name)
    return next((target for plugin in likely_first if (target := _offered_by(plugin).get(name))), None)


def _tell_broken() -> None:
    """Log who offers none: ``from neuropod_core.packagers import x`` drops the words of an `AttributeError`."""
    for plugin in plugins.installed():
        try:
            plugin.backend()
        except BackendError as error:
            _logger.warning("%s; its packagers cannot be had", error)


def __getattr__(name: str) -> Callable[..., None]:
    if name.startswith("__"):
        raise AttributeError(name)
    target = _target_of(name)
    if target is None:
        _tell_broken()
        there = ", ".join(available()) or "none"
        raise AttributeError(f"no installed plugin offers the packager {name!r} (offered: {there})")
    return _imported(target)


def __dir__() -> list[str]:
    return sorted([*__all__, *available()])
