"""From the requirements that an author states to a lock of every distribution that they bring, transitive ones too."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from neuropod_core.errors import PackageFormatError, PackagingError, shown
from neuropod_python.pylock import parse_pylock
from neuropod_python.requirements import LOCK, PYLOCK, parse_lock

__all__ = ["hashed_lock", "lock_requirements", "locks"]

_logger = logging.getLogger("neuropod")

_MOST_SECONDS = 600
_SHOWN_LINES = 5


def locks(text: str, *, hashes: bool | None = None) -> dict[str, str]:
    """Give the lock files of requirements by name: ``requirements.lock``, and ``pylock.toml`` where it can be had.

    Parameters
    ----------
    text
        What `lock_requirements` takes.
    hashes
        True: without a hashed lock it is an error. False: no index is asked for hashes. None: the hashed lock is left
        out where uv is not installed, or knows no index that has all locked versions; the log says so.

    Raises
    ------
    PackagingError
        As `lock_requirements`; with `hashes`, as `hashed_lock`.
    """
    lock = lock_requirements(text)
    files = {LOCK: lock}
    if hashes or (hashes is None and _uv() is not None):
        try:
            files[PYLOCK] = hashed_lock(lock)
        except PackagingError as error:
            if hashes:
                raise
            _logger.warning("%s is written without %s: %s", LOCK, PYLOCK, error)
    return files


def hashed_lock(lock: str) -> str:
    """Give ``pylock.toml`` (PEP 751) for a lock: the same versions, with the hashes of all their files.

    The files are those of all systems and of this version of Python and later ones (``requires-python``); the versions
    are what they are here. Which indexes are asked, uv's own settings say (``UV_INDEX``, ``uv.toml``).

    Raises
    ------
    PackagingError
        If uv is not installed, no index has one of the versions (a local one such as 2.13.0+cpu), or a file of them
        comes from this machine and not from an index.
    """
    options = ["--no-deps", "--universal", "--python-version", ".".join(map(str, sys.version_info[:2]))]
    options += ["--generate-hashes", "--format", "pylock.toml", "--no-emit-find-links"]
    found = _uv_compile(lock, f"{PYLOCK} cannot be written", *options)
    try:
        wanted, pins = parse_lock(lock), parse_pylock(found, at=PYLOCK).pins
    except PackageFormatError as error:
        raise PackagingError(f"uv gave no lock that holds elsewhere: {error}") from error
    if {name: pin.specifier for name, pin in pins.items()} != {name: pin.specifier for name, pin in wanted.items()}:
        raise PackagingError(f"uv locked other versions than {LOCK} has")
    return found


def lock_requirements(text: str) -> str:
    """Pin what `text` asks for and everything that this needs in turn, one ``name==version`` a line.

    What is installed is locked wherever it satisfies all of it, for that is what the model was tried with: no network,
    and the same lock each time. Otherwise ``uv pip compile`` resolves, where uv is installed.

    Raises
    ------
    PackagingError
        If a line is no requirement (an address or an option of pip is none), or neither way gives a lock.
    """
    wanted = [requirement for line in text.splitlines() for requirement in _requirement(line)]
    pins: dict[str, str] = {}
    unmet = sorted(set(_pin_installed(wanted, pins)))
    if unmet:
        pins = _compiled(wanted, unmet)
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


def _requirement(line: str) -> Iterator[Requirement]:
    text = line.strip() if line.lstrip().startswith("#") else line.partition(" #")[0].strip()
    if not text or text.startswith("#"):
        return
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        remedy = "write requirements like numpy>=1.26; set indexes where pip and uv are configured"
        raise PackagingError(f"{shown(text)} is no requirement", at="requirements", remedy=remedy) from error
    if requirement.url:
        remedy = "require a released version: an address may hold something else tomorrow"
        raise PackagingError(f"{shown(text)} names an address", at="requirements", remedy=remedy)
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        yield requirement


def _pin_installed(wanted: Iterable[Requirement], pins: dict[str, str]) -> Iterator[str]:
    """Walk what is installed; fill `pins`, and yield what is missing or of another version."""
    left, seen = list(wanted), set()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} (not installed)"
            continue
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            yield f"{requirement} (installed {distribution.version})"
        pins[name] = distribution.version
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                left.extend(_needed(distribution, extra))


def _needed(distribution: metadata.Distribution, extra: str) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # Old metadata that pip installed all the same.
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _compiled(wanted: list[Requirement], unmet: list[str]) -> dict[str, str]:
    what = f"the requirements are not those installed: {', '.join(unmet)}"
    found = _uv_compile("".join(f"{requirement}\n" for requirement in wanted), what)
    try:
        return {name: next(iter(pin.specifier)).version for name, pin in parse_lock(found).items()}
    except PackageFormatError as error:
        raise PackagingError(f"{what}; uv gave no lock: {error}") from error


def _uv_compile(requirements: str, what: str, *options: str) -> str:
    """Resolve for this interpreter by uv, or say `what` for."""
    uv = _uv()
    if uv is None:
        remedy = "install them, or run: pip install 'neuropod-python[lock]' to resolve them by uv"
        raise PackagingError(what, remedy=remedy)
    command = [uv, "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--python", sys.executable]
    try:
        run = subprocess.run(  # noqa: S603 - no shell; the requirements were parsed and travel on stdin
            [*command, *options],
            input=requirements,
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.strip().splitlines()[-_SHOWN_LINES:])
        raise PackagingError(f"{what}; uv cannot resolve them: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackagingError(f"{what}; uv did not run: {error}") from error
    return run.stdout


def _uv() -> str | None:
    try:
        from uv import find_uv_bin
    except ImportError:
        return shutil.which("uv")
    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        return shutil.which("uv")
