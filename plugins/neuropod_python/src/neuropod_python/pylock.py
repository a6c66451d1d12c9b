"""The hashed lock of a package, ``pylock.toml`` as PEP 751 describes it: read, bounded and believed in nothing.

Read is what tells one environment from another: names, versions, markers and the range of Python. What an installer
needs besides, addresses and hashes, is looked at so that nothing but released distributions can hide there: a lock that
names a folder, a repository or a file of this machine is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from neuropod_core.errors import PackageFormatError, PackageLimitError, shown

__all__ = ["Lock", "parse_pylock", "read_bounded"]

_MOST_BYTES = 4 << 20
_MOST_PACKAGES = 5000
_MOST_DOTS = 64
_LONGEST_TEXT = 256
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_STRING = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|$)' + r"|'[^']*(?:'|$)")
_ADDRESS = re.compile(r"https?://[^\s]+")
_UNRELEASED = {"vcs": "a repository", "directory": "a folder", "archive": "an archive of no index"}


@dataclass(frozen=True)
class Lock:
    """What a model was locked with.

    Attributes
    ----------
    pins
        Exact requirements by normalized name: those that hold for this interpreter and system.
    requires_python
        Versions of Python that the lock was made for; everything where it does not say.
    """

    pins: Mapping[str, Requirement]
    requires_python: SpecifierSet


def read_bounded(path: Path, what: str, most_bytes: int = _MOST_BYTES) -> str:
    """Read a file of text that somebody else wrote.

    Raises
    ------
    PackageFormatError, PackageLimitError
        If it is not UTF-8, or larger than `most_bytes`.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise PackageLimitError(f"bytes of a {what}", most_bytes, path.stat().st_size, at=str(path))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise PackageFormatError(f"the {what} is not UTF-8: {error.reason}", at=str(path)) from error


def parse_pylock(text: str, at: str = "pylock.toml") -> Lock:
    """Read a lock in the form of PEP 751, version 1.

    Entries whose marker does not hold here are left out, as in `neuropod_python.requirements.parse_lock`.

    Raises
    ------
    PackageFormatError, PackageLimitError
        If it is none: another version of the form, an entry without a version or without hashes, one that is no
        released distribution, two versions of one name, more than any real lock holds.

    Notes
    -----
    Source: PEP 751 and https://packaging.python.org/en/latest/specifications/pylock-toml/.
    """
    table = _toml(text, at)
    form = table.get("lock-version")
    if not isinstance(form, str) or form.partition(".")[0] != "1":
        raise PackageFormatError(f"expected lock-version 1.0, got {shown(form)}", at=at)
    entries = table.get("packages", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PackageFormatError(f"packages is a list of tables, not {shown(entries)}", at=at)
    if len(entries) > _MOST_PACKAGES:
        raise PackageLimitError("packages of a lock", _MOST_PACKAGES, len(entries), at=at)
    return Lock(_pins(entries, at), _range(table, at))


# -- the text ---------------------------------------------------------------------------------------------------------


def _toml(text: str, at: str) -> dict[str, Any]:
    # The parser takes time in the square of the dots of a key, so that a long one would hang it.
    if '"""' in text or "'''" in text:
        raise PackageFormatError("the lock holds a string of several lines", at=at)
    for number, line in enumerate(text.split("\n"), 1):
        dots = _STRING.sub("", line).count(".")
        if dots > _MOST_DOTS:
            raise PackageLimitError("dots in a line of a lock", _MOST_DOTS, dots, at=f"{at}:{number}")
    if sys.version_info >= (3, 11):  # Here, since most models have no such lock, and old environments no such library.
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise PackageFormatError("the lock is nested too deeply", at=at) from None
    except ValueError as error:  # Of its own, and of numbers and dates that Python does not take.
        raise PackageFormatError(f"is no TOML: {error}", at=at) from error


# -- its entries ------------------------------------------------------------------------------------------------------


def _pins(entries: list[dict[str, Any]], at: str) -> dict[str, Requirement]:
    pins: dict[str, Requirement] = {}
    for number, entry in enumerate(entries):
        pin = _pin(entry, f"{at}: packages[{number}]")
        if not _holds_here(entry.get("marker"), f"{at}: packages[{number}]"):
            continue
        name = canonicalize_name(pin.name)
        if pins.setdefault(name, pin).specifier != pin.specifier:
            raise PackageFormatError(f"{name} is locked twice, to {pins[name].specifier} and {pin.specifier}", at=at)
    return pins


def _pin(entry: Mapping[str, Any], at: str) -> Requirement:
    name = _text(entry, "name", at)
    if not _NAME.fullmatch(name):
        raise PackageFormatError(f"{shown(name)} is no name of a distribution", at=at)
    _check_sources(entry, at)
    if "version" not in entry:  # The format lets sources be without one; what comes from an index has it.
        raise PackageFormatError(f"{shown(name)} has no version", at=at, remedy="write one, or lock it again")
    version = _text(entry, "version", at)
    try:
        return Requirement(f"{name}=={Version(version)}")
    except InvalidVersion as error:
        raise PackageFormatError(f"{shown(version)} is no version", at=at) from error


def _text(table: Mapping[str, Any], key: str, at: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT:
        raise PackageFormatError(f"{key} is a text, not {shown(value)}", at=at)
    return value


def _holds_here(marker: object, at: str) -> bool:
    if marker is None:
        return True
    if not isinstance(marker, str) or len(marker) > 16 * _LONGEST_TEXT:
        raise PackageFormatError(f"marker is a text, not {shown(marker)}", at=at)
    try:
        return Marker(marker).evaluate({"extra": ""})
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, InvalidVersion, RecursionError) as error:
        raise PackageFormatError(f"{shown(marker)} is no marker that this version of packaging knows", at=at) from error


def _range(table: Mapping[str, Any], at: str) -> SpecifierSet:
    value = table.get("requires-python", "")
    try:
        return SpecifierSet(value if isinstance(value, str) and len(value) <= _LONGEST_TEXT else "none")
    except InvalidSpecifier as error:
        raise PackageFormatError(f"requires-python is a range of versions, not {shown(value)}", at=at) from error


# -- what they are installed from -------------------------------------------------------------------------------------


def _check_sources(entry: Mapping[str, Any], at: str) -> None:
    for key, what in _UNRELEASED.items():
        if key in entry:
            raise PackageFormatError(f"{shown(entry['name'])} comes from {what}, not from an index", at=at)
    for file in _files(entry, at):
        address = file.get("url")
        is_elsewhere = address is not None and not (isinstance(address, str) and _ADDRESS.fullmatch(address))
        if "path" in file or is_elsewhere:
            where = file.get("path", address)
            raise PackageFormatError(f"{shown(entry['name'])} comes from {shown(where)}, not from an index", at=at)
        hashes = file.get("hashes")
        if not isinstance(hashes, dict) or not hashes or not all(map(_is_hash, hashes.values())):
            raise PackageFormatError(f"a file of {shown(entry['name'])} has no hashes", at=at)


def _files(entry: Mapping[str, Any], at: str) -> Iterator[Mapping[str, Any]]:
    wheels, sdist = entry.get("wheels", []), entry.get("sdist", {})
    for file in (*(wheels if isinstance(wheels, list) else [wheels]), *([sdist] if sdist != {} else [])):
        if not isinstance(file, dict):
            raise PackageFormatError(f"wheels and sdist are tables, not {shown(file)}", at=at)
        yield file


def _is_hash(digest: object) -> bool:
    return isinstance(digest, str) and bool(re.fullmatch(r"[0-9a-f]{32,128}", digest))
