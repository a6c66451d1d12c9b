"""The lock of a package: the distributions that its model was tested with, and whether they are here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from neuropod_core.errors import PackageFormatError, PackageLimitError, RequirementsError, shown
from neuropod_python.pylock import Lock, parse_pylock, read_bounded

__all__ = ["LOCK", "PYLOCK", "check_installed", "locked", "parse_lock"]

LOCK, PYLOCK = "requirements.lock", "pylock.toml"
"""The files of a variant that hold its lock: the original's, and the hashed one."""

_MOST_BYTES = 1 << 20
_LONGEST_LINE = 256
_MOST_LINES = 5000


def check_installed(folder: Path) -> None:
    """Compare the lock of a variant with what is installed here; without one there is nothing to compare.

    Raises
    ------
    RequirementsError
        If any distribution is missing or has another version, or the lock is for other versions of Python; it names all
        of them.
    PackageFormatError, PackageLimitError
        As `locked`.
    """
    lock = locked(folder)
    if lock is None:
        return
    differences = tuple(line for line in (_python(lock), *map(_difference, lock.pins.values())) if line)
    if differences:
        remedy = "install the locked versions, or pass ignore_requirements=True if you know that these will do"
        file = folder / (LOCK if (folder / LOCK).is_file() else PYLOCK)
        raise RequirementsError(differences, at=str(file), remedy=remedy)


def locked(folder: Path) -> Lock | None:
    """Read the lock of a variant from ``requirements.lock``, ``pylock.toml``, or both; None if it has neither.

    Raises
    ------
    PackageFormatError, PackageLimitError
        If one of them is no lock, or they do not pin the same.
    """
    plain, hashed = folder / LOCK, folder / PYLOCK
    pins = parse_lock(read_bounded(plain, "requirements lock", _MOST_BYTES), at=str(plain)) if plain.is_file() else None
    lock = parse_pylock(read_bounded(hashed, "hashed lock"), at=str(hashed)) if hashed.is_file() else None
    if pins is None or lock is None:
        return lock if pins is None else Lock(pins, SpecifierSet())
    _check_agreement(pins, lock.pins, at=str(folder))
    return lock


def _check_agreement(pins: Mapping[str, Requirement], others: Mapping[str, Requirement], at: str) -> None:
    for name in sorted({*pins, *others}):
        one, other = (lock[name].specifier if name in lock else None for lock in (pins, others))
        if one != other:
            what = f"{name} is locked to {one or 'no version'} and to {other or 'no version'}"
            raise PackageFormatError(f"{LOCK} and {PYLOCK} differ: {what}", at=at)


def parse_lock(text: str, at: str = "") -> dict[str, Requirement]:
    """Read the pins of a lock by normalized name.

    A line is ``name==version``, perhaps with extras, a marker or a comment. Those whose marker does not hold here are
    left out.

    Raises
    ------
    PackageFormatError, PackageLimitError
        If a line is anything else: an option of pip, an address, a range, a second version of one name. If there are
        too many.
    """
    pins: dict[str, Requirement] = {}
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        raise PackageLimitError("lines of a requirements lock", _MOST_LINES, len(lines), at=at)
    for number, line in enumerate(lines, 1):
        pin = _pin(line, f"{at}:{number}" if at else f"line {number}")
        if pin is None:
            continue
        name = canonicalize_name(pin.name)
        if pins.setdefault(name, pin).specifier != pin.specifier:
            raise PackageFormatError(f"{name} is locked twice, to {pins[name].specifier} and {pin.specifier}", at=at)
    return pins


def _pin(line: str, at: str) -> Requirement | None:
    text = line.partition("#")[0].strip()
    if not text:
        return None
    try:
        pin = Requirement(text) if len(text) <= _LONGEST_LINE else None
    except InvalidRequirement:
        pin = None
    if pin is None or pin.url or not _is_exact(pin):
        raise PackageFormatError(f"expected name==version in the requirements lock, got {shown(text)}", at=at)
    return pin if pin.marker is None or pin.marker.evaluate({"extra": ""}) else None


def _is_exact(pin: Requirement) -> bool:
    specifiers = list(pin.specifier)
    return len(specifiers) == 1 and specifiers[0].operator == "==" and not specifiers[0].version.endswith(".*")


def _python(lock: Lock) -> str:
    here = platform.python_version()
    fits = lock.requires_python.contains(here, prereleases=True)
    return "" if fits else f"python {lock.requires_python} (this is {here})"


def _difference(pin: Requirement) -> str:
    locked = next(iter(pin.specifier)).version
    try:
        installed = metadata.version(pin.name)
    except metadata.PackageNotFoundError:
        return f"{pin.name} {locked} (not installed)"
    return "" if pin.specifier.contains(installed, prereleases=True) else f"{pin.name} {locked} (installed {installed})"
