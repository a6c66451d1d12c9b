"""The lock of a package: which wheels its environment is made of.

Source of the format: PEP 751, ``pylock.toml`` version 1.0. Read is what wheels need; sources, repositories and folders,
which would run somebody's build, are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from neuropod_core.errors import EnvironmentBuildError, PackageFormatError, shown

__all__ = ["Lock", "Requirement", "Wheel", "parse_lock"]

FILE_NAME = "pylock.toml"

_MOST_PACKAGES = 5000
_HEX_DIGITS = 64
_SOURCES = ("sdist", "vcs", "directory", "archive")


@dataclass(frozen=True)
class Wheel:
    """One file of a lock; `url` is empty where the lock names the file alone."""

    name: str
    sha256: str
    url: str
    tags: frozenset[str]
    bytes: int | None = None


@dataclass(frozen=True)
class Requirement:
    """One distribution of a lock, its wheels for all machines, and what other sources of it the lock names."""

    name: str
    version: str
    marker: Marker | None
    wheels: tuple[Wheel, ...]
    others: tuple[str, ...] = ()

    def holds(self, environment: Mapping[str, str]) -> bool:
        """Whether it is wanted where the markers have these values."""
        return self.marker is None or _holds(self.marker, environment)

    def wheel_for(self, tags: Mapping[str, int]) -> Wheel | None:
        """Give the wheel that fits best: the one with the tag of least rank."""
        ranked = [(min(tags.get(tag, len(tags)) for tag in wheel.tags), wheel.name, wheel) for wheel in self.wheels]
        best = min(ranked, default=None, key=lambda rank: rank[:2])
        return best[2] if best is not None and best[0] < len(tags) else None


@dataclass(frozen=True)
class Lock:
    """All of a lock; `digest` is the SHA-256 of its bytes, `environments` are markers of which one must hold."""

    digest: str
    requires_python: str
    requirements: tuple[Requirement, ...]
    environments: tuple[Marker, ...] = ()

    def admits(self, environment: Mapping[str, str]) -> bool:
        """Whether it was made for where the markers have these values, among others."""
        return not self.environments or any(_holds(marker, environment) for marker in self.environments)


def parse_lock(data: bytes, at: str) -> Lock:
    """Read a lock.

    Raises
    ------
    PackageFormatError
        If it is none of version 1, or names a file that cannot be a wheel of its distribution.
    EnvironmentBuildError
        If a wheel in it has no SHA-256, for `reason` ``hash``, or is a file of some machine, for ``lock``.
    """
    document = _document(data, at)
    if not str(document.get("lock-version", "")).startswith("1."):
        raise PackageFormatError(f"lock-version {shown(document.get('lock-version'))} is not 1.x", at=at)
    requires = document.get("requires-python", "")
    packages = document.get("packages", [])
    if not isinstance(packages, list) or len(packages) > _MOST_PACKAGES:
        raise PackageFormatError(f"packages are no list of at most {_MOST_PACKAGES}", at=at)
    try:
        if any(each.operator == "===" for each in SpecifierSet(requires)):
            raise PackageFormatError(f"requires-python {shown(requires)} is no range of versions", at=at)
        requirements = tuple(_requirement(package, at) for package in packages)
        environments = tuple(map(Marker, document.get("environments", ())))
        return Lock(sha256(data).hexdigest(), requires, requirements, environments)
    except (InvalidSpecifier, InvalidMarker, InvalidVersion, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, PackageFormatError):
            raise
        raise PackageFormatError(f"is no lock: {type(error).__name__}: {shown(str(error))}", at=at) from error


def _holds(marker: Marker, environment: Mapping[str, str]) -> bool:
    try:
        return marker.evaluate(dict(environment))
    except (UndefinedComparison, UndefinedEnvironmentName) as error:
        raise PackageFormatError(f"the marker {shown(str(marker))} cannot be judged: {error}", at=FILE_NAME) from error


def _document(data: bytes, at: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise PackageFormatError(f"is no TOML: {shown(str(error))}", at=at) from error


def _requirement(package: dict[str, Any], at: str) -> Requirement:
    name = canonicalize_name(package["name"])
    others = tuple(kind for kind in _SOURCES if kind in package)
    version = str(Version(package["version"])) if "version" in package else ""
    if not version and ("wheels" in package or not others):
        raise PackageFormatError(f"{name} has no version", at=at, remedy="write one, or lock it again")
    wheels = tuple(_wheel(wheel, name, version, at) for wheel in package.get("wheels", ()))
    marker = package.get("marker")
    return Requirement(name, version, None if marker is None else Marker(marker), wheels, others)


def _wheel(wheel: dict[str, Any], name: str, version: str, at: str) -> Wheel:
    url = wheel.get("url", "")
    file = wheel.get("name") or _last_part(url or wheel.get("path", ""))
    try:
        owner, release, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename as error:
        raise PackageFormatError(f"{shown(file)} is no name of a wheel", at=at) from error
    if (owner, release) != (name, Version(version)) or any(sign in file for sign in "/\\\0"):
        raise PackageFormatError(f"{shown(file)} is no wheel of {name} {version}", at=at)
    _check_place(wheel, file, at)
    digest = str(wheel.get("hashes", {}).get("sha256", "")).lower()
    if len(digest) != _HEX_DIGITS or not set(digest) <= set("0123456789abcdef"):
        what = f"the lock has no SHA-256 for {file}"
        raise EnvironmentBuildError("hash", what, at, "lock it with uv, which writes them")
    size = wheel.get("size")
    bound = size if isinstance(size, int) and size > 0 else None
    return Wheel(file, digest, url, frozenset(map(str, tags)), bound)


def _check_place(wheel: dict[str, Any], file: str, at: str) -> None:
    """Refuse a wheel that is a file of the machine of whoever wrote the lock, or of whoever reads it."""
    url, path = wheel.get("url", ""), str(wheel.get("path", ""))
    parts = path.replace("\\", "/").split("/")
    if urlsplit(url).scheme == "file":
        place = url
    elif (parts[0] in ("", "~") and path) or ".." in parts or ":" in parts[0]:
        place = path
    else:
        return
    what = f"the lock takes {file} from {shown(place)}, a file of some machine and none of the package"
    remedy = f'put the wheel into 0/wheels of the package, and write name = "{file}" in place of its url or path'
    raise EnvironmentBuildError("lock", what, at, remedy)


def _last_part(address: str) -> str:
    return unquote(urlsplit(address).path).rpartition("/")[2]
