"""From the requirements that an author states to a lock of every distribution that they bring, transitive ones too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from neuropod_core.errors import PackageFormatError, PackagingError, shown
from neuropod_python.requirements import parse_lock

__all__ = ["lock_requirements"]

_MOST_SECONDS = 600
_SHOWN_LINES = 5


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
    uv = _uv()
    if uv is None:
        raise PackagingError(
            what, remedy="install them, or run: pip install 'neuropod-python[lock]' to resolve them by uv"
        )
    command = [uv, "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--python", sys.executable]
    try:
        run = subprocess.run(  # noqa: S603 - no shell; the requirements were parsed and travel on stdin
            command,
            input="".join(f"{requirement}\n" for requirement in wanted),
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            check=True,
        )
        return {name: next(iter(pin.specifier)).version for name, pin in parse_lock(run.stdout).items()}
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.strip().splitlines()[-_SHOWN_LINES:])
        raise PackagingError(f"{what}; uv cannot resolve them: {said}") from error
    except (OSError, subprocess.TimeoutExpired, PackageFormatError) as error:
        raise PackagingError(f"{what}; uv gave no lock: {error}") from error


def _uv() -> str | None:
    try:
        from uv import find_uv_bin
    except ImportError:
        return shutil.which("uv")
    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        return shutil.which("uv")
