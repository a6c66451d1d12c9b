"""The lock of a package: the distributions that its model was tested with, and whether they are here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from neuropod_core.errors import PackageFormatError, PackageLimitError, RequirementsError, shown

__all__ = ["check_installed", "parse_lock"]

_MOST_BYTES = 1 << 20
_LONGEST_LINE = 256
_MOST_LINES = 5000


def check_installed(lock: Path) -> None:
    """Compare a lock with what is installed here; without such a file there is nothing to compare.

    Raises
    ------
    RequirementsError
        If any distribution is missing or has another version; it names all of them.
    PackageFormatError, PackageLimitError
        If the file is no lock.
    """
    if not lock.is_file():
        return
    pins = parse_lock(_bounded_text(lock), at=str(lock))
    differences = tuple(line for pin in pins.values() if (line := _difference(pin)))
    if differences:
        remedy = "install the locked versions, or pass ignore_requirements=True if you know that these will do"
        raise RequirementsError(differences, at=str(lock), remedy=remedy)


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


def _bounded_text(lock: Path) -> str:
    size = lock.stat().st_size
    if size > _MOST_BYTES:
        raise PackageLimitError("bytes of a requirements lock", _MOST_BYTES, size, at=str(lock))
    try:
        return lock.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PackageFormatError(f"the requirements lock is not UTF-8: {error.reason}", at=str(lock)) from error


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


def _difference(pin: Requirement) -> str:
    locked = next(iter(pin.specifier)).version
    try:
        installed = metadata.version(pin.name)
    except metadata.PackageNotFoundError:
        return f"{pin.name} {locked} (not installed)"
    return "" if pin.specifier.contains(installed, prereleases=True) else f"{pin.name} {locked} (installed {installed})"
