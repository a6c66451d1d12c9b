"""From a lock to files on this machine: the wheel that fits an interpreter, found or fetched, and its hash compared."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from neuropod_core.environments._lent import linked
from neuropod_core.environments._lock import FILE_NAME, Lock, Requirement, Wheel
from neuropod_core.environments._pythons import Python, run_in
from neuropod_core.environments._store import wheel_folder
from neuropod_core.errors import EnvironmentBuildError, InterpreterError, PackageFormatError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Plan", "Progress", "Wheels", "check_agrees", "lacks", "plan"]

Progress = Callable[[str], None]

_CHUNK = 1 << 20
_TIMEOUT_S = 60
_MEGABYTE = 1_000_000
_TOLD_BYTES = 50 * _MEGABYTE  # How often somebody who waits hears of it.
_NEEDS_LOGIN = (401, 403, 407)
_REMEDY_OFFLINE = "run neuropod env export where there is a network, or build it there once"

_MOST_BYTES = 16_000_000_000  # Of a wheel whose size the lock does not say; the largest there are have 3 GB.
_OTHERS = {
    "sdist": "an sdist",
    "vcs": "a repository (vcs)",
    "directory": "a folder (directory)",
    "archive": "an archive of sources (archive)",
}

_TAGS = """
import json, sys
sys.path.append(sys.argv[1])
from packaging import markers, tags
print(json.dumps({"tags": [str(tag) for tag in tags.sys_tags()], "markers": markers.default_environment()}))
"""

# As ``-m pip``, but a folder named pip where somebody works is not run.
_PIP = """
import sys
sys.path[:] = [place for place in sys.path if place]
import runpy
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Plan:
    """What is to be installed for an interpreter."""

    python: Python
    wheels: tuple[tuple[Requirement, Wheel], ...]


def plan(lock: Lock, python: Python, at: str) -> Plan:
    """Choose the wheels of a lock that fit an interpreter.

    Raises
    ------
    EnvironmentBuildError
        If a requirement has none; for `reason` ``sdist`` it has none for any.
    PackageFormatError
        If it locks one distribution twice.
    """
    tags, markers = _judged_by(python)
    if not lock.admits(markers):
        what = f"the lock was made for other environments than Python {python}"
        raise EnvironmentBuildError(
            "wheel", what, at, "lock it for this Python and machine too, or name another Python"
        )
    wanted = [requirement for requirement in lock.requirements if requirement.holds(markers)]
    names = [requirement.name for requirement in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PackageFormatError(f"{twice[0]} is locked twice for Python {python}", at=at)
    return Plan(python, tuple((requirement, _fitting(requirement, tags, python, at)) for requirement in wanted))


def check_agrees(plan: Plan, text: str, at: str) -> None:
    """Compare a plan with the other lock of a package, lines of ``name==version``.

    Raises
    ------
    PackageFormatError
        If one has what the other has not, or another version of it.
    """
    _, markers = _judged_by(plan.python)
    pins = dict(_pins(text, markers))
    wheels = {requirement.name: Version(requirement.version) for requirement, _ in plan.wheels}
    for name in sorted({*pins, *wheels}):
        if pins.get(name) != wheels.get(name):
            what = f"{name} is locked to {pins.get(name, 'no version')} and to {wheels.get(name, 'no version')}"
            remedy = "package the model again, which writes both; or remove the one that is wrong"
            raise PackageFormatError(f"requirements.lock and {FILE_NAME} differ: {what}", at=at, remedy=remedy)


def lacks(lock: Lock, at: str) -> Callable[[Python], str]:
    """Give the function that says which wheel an interpreter lacks; empty if it lacks none."""

    def lack(python: Python) -> str:
        try:
            plan(lock, python, at)
        except EnvironmentBuildError as error:
            if error.reason == "sdist":  # No other interpreter has it either.
                raise
            return error.what
        return ""

    return lack


@dataclass(frozen=True)
class Wheels:
    """Where wheels come from: folders, what was fetched before, the network.

    Parameters
    ----------
    folders
        Looked at first, in this order.
    offline
        Whether nothing may be fetched.
    progress
        Told of what is fetched.
    at
        The lock, for errors.
    work
        An empty folder for what is on its way; on the disk of the cache.
    """

    work: Path
    folders: Sequence[Path] = ()
    offline: bool = False
    progress: Progress = field(default=lambda _: None)
    at: str = FILE_NAME

    def obtain(self, plan: Plan) -> list[Path]:
        """Give the files of a plan, their hashes compared.

        Raises
        ------
        EnvironmentBuildError
            If one is not here and not to be had, or is another than the lock names.
        """
        kept = {wheel: self._here(wheel) for _, wheel in plan.wheels}
        if self.offline and (missing := sorted(wheel.name for wheel, path in kept.items() if path is None)):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            what = f"{missing[0]}{more} is not here, and the network was not to be used"
            raise EnvironmentBuildError("offline", what, self.at, _REMEDY_OFFLINE)
        return [kept[wheel] or self._fetched(wheel, requirement, plan.python) for requirement, wheel in plan.wheels]

    def _here(self, wheel: Wheel) -> Path | None:
        for folder in self.folders:
            path = folder / wheel.name
            if path.is_file():
                self._check(path, wheel, "remove it, and fetch it again")
                return path
        path = wheel_folder(wheel.sha256) / wheel.name
        if not path.is_file() or _digest(path) != wheel.sha256:
            return None
        with contextlib.suppress(OSError):
            os.utime(path.parent)
        return path

    def _check(self, path: Path, wheel: Wheel, remedy: str) -> None:
        digest = _digest(path)
        if digest != wheel.sha256:
            what = f"{path}: the lock says sha256 {wheel.sha256}, got {digest}"
            raise EnvironmentBuildError("hash", what, self.at, remedy)

    def _fetched(self, wheel: Wheel, requirement: Requirement, python: Python) -> Path:
        size = f" ({wheel.bytes / _MEGABYTE:.1f} MB)" if wheel.bytes else ""
        self.progress(f"fetching {wheel.name}{size}")
        try:
            with _arriving(wheel, self.work) as partial:
                self._fetch(wheel, requirement, python, partial)
                remedy = "somebody changed it on the way or at its source: ask there, and do not use it"
                self._check(partial, wheel, remedy)
        except OSError as error:
            what = f"{wheel.name} cannot be kept: {error}"
            raise EnvironmentBuildError("install", what, self.at, "make room in the cache") from error
        return wheel_folder(wheel.sha256) / wheel.name

    def _fetch(self, wheel: Wheel, requirement: Requirement, python: Python, target: Path) -> None:
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError

        try:
            if wheel.url:
                _download(wheel, target, lambda done: self.progress(f"{wheel.name}: {done}"))
                return
        except HTTPError as error:
            error.close()
            if error.code not in _NEEDS_LOGIN:
                raise self._unreachable(wheel, error) from error
        except _TooMuchError as error:
            what = f"{wheel.name} was not fetched: {shown(urlsplit(wheel.url).hostname)} sends {error}"
            raise EnvironmentBuildError("network", what, self.at, "ask where the lock comes from") from error
        except (URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            raise self._unreachable(wheel, error) from error
        self._ask_pip(wheel, requirement, python, target)  # It knows indexes and passwords.

    def _unreachable(self, wheel: Wheel, error: Exception) -> EnvironmentBuildError:
        host = urlsplit(wheel.url).hostname or wheel.url
        what = f"{wheel.name} could not be fetched from {shown(host)}: {shown(str(error))}"
        return EnvironmentBuildError("network", what, self.at, f"mend the connection; or {_REMEDY_OFFLINE}")

    def _ask_pip(self, wheel: Wheel, requirement: Requirement, python: Python, target: Path) -> None:
        work = target.with_suffix(".pip")
        work.mkdir()
        asked = work / "requirements.txt"
        asked.write_text(f"{requirement.name}=={requirement.version} --hash=sha256:{wheel.sha256}\n", "utf-8")
        command = [
            *(str(python.executable), "-c", _PIP, "download", "--quiet", "--no-input"),
            *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(work), "-r", str(asked)),
        ]
        try:
            ran = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - no shell, and the names were parsed
            found = next(iter(sorted(work.glob("*.whl"))), None)
            if found is None:
                raise _not_found(wheel, ran.stderr, self.at)
            found.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


# -- details ----------------------------------------------------------------------------------------------------------

_judged: dict[Path, tuple[dict[str, int], dict[str, str]]] = {}


def _judged_by(python: Python) -> tuple[dict[str, int], dict[str, str]]:
    """Ask an interpreter for the tags of wheels that it takes, best first, and for the values of markers."""
    if python.executable not in _judged:
        lent = linked("packaging")
        try:
            facts = json.loads(run_in(python.executable, _TAGS, str(lent.paths[0])))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise InterpreterError(
                "this lock", (f"{python}: it does not run: {shown(str(error))}",), remedy="name another"
            ) from error
        _judged[python.executable] = {tag: rank for rank, tag in enumerate(facts["tags"])}, facts["markers"]
    return _judged[python.executable]


def _pins(text: str, markers: Mapping[str, str]) -> Iterator[tuple[str, Version]]:
    """Read the lines of a lock that pin a version here; whether the others are in order is for who installs by it."""
    from packaging.requirements import InvalidRequirement
    from packaging.requirements import Requirement as Line

    for line in text.replace("\\\n", " ").splitlines():
        stated = re.split(r"\s(?:#|--)|^(?:#|--)", line, maxsplit=1)[0].strip()
        with contextlib.suppress(InvalidRequirement, InvalidVersion):
            pin = Line(stated)
            exact = [one.version for one in pin.specifier if one.operator == "=="]
            if exact and (pin.marker is None or pin.marker.evaluate({"extra": "", **markers})):
                yield canonicalize_name(pin.name), Version(exact[0])


def _fitting(requirement: Requirement, tags: Mapping[str, int], python: Python, at: str) -> Wheel:
    if not requirement.wheels:
        raise _unbuilt(requirement, at)
    wheel = requirement.wheel_for(tags)
    if wheel is None:
        there = shown(", ".join(wheel.name for wheel in requirement.wheels))
        what = f"no wheel of {requirement.name} {requirement.version} fits Python {python} (the lock has {there})"
        raise EnvironmentBuildError(
            "wheel", what, at, "lock it for this Python and machine too, or name another Python"
        )
    return wheel


def _unbuilt(requirement: Requirement, at: str) -> EnvironmentBuildError:
    """Word that a requirement has no wheel, and what the lock has in its place."""
    named = f"{requirement.name} {requirement.version}".rstrip()
    there = " and ".join(_OTHERS[kind] for kind in requirement.others)
    what = f"{named} has no wheel in the lock" + (f" but {there}: to build it would run its code" if there else "")
    remedy = "lock a release that has wheels"
    if set(requirement.others) - {"sdist"}:
        remedy = "build a wheel of it, put that into 0/wheels of the package, and lock the wheel by its name and hash"
    return EnvironmentBuildError("sdist", what, at, remedy)


def _not_found(wheel: Wheel, said: str, at: str) -> EnvironmentBuildError:
    """Word why pip gave no wheel: the index has others than the lock, or pip's own last line."""
    others = sorted(set(re.findall(r"Got\s+([0-9a-f]{64})", said)) - {wheel.sha256})
    if others:
        what = f"{wheel.name}: the lock says sha256 {wheel.sha256}, the index of pip has {' and '.join(others)}"
        remedy = (
            "lock it again, if you trust that index; a wheel of another index has another hash: configure pip for it"
        )
        return EnvironmentBuildError("hash", what, at, remedy)
    last = (said.strip().splitlines() or ["nothing"])[-1]
    what = f"pip finds no {wheel.name} with the hash of the lock; it says {shown(last)}"
    return EnvironmentBuildError("network", what, at, f"configure pip for the index that has it; or {_REMEDY_OFFLINE}")


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: file.read(_CHUNK), b"")


@contextmanager
def _arriving(wheel: Wheel, work: Path) -> Iterator[Path]:
    """Give a name to write a wheel to; it goes among those that were fetched if the block ends well."""
    partial = work / wheel.name
    try:
        yield partial
        folder = wheel_folder(wheel.sha256)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.replace(folder / wheel.name)
    finally:
        partial.unlink(missing_ok=True)


class _TooMuchError(Exception):
    """A server sends more than a wheel may have."""


def _download(wheel: Wheel, target: Path, tell: Progress) -> None:
    from urllib.request import Request, urlopen

    if urlsplit(wheel.url).scheme not in ("https", "http"):
        raise ValueError(f"wheels are not fetched from {shown(wheel.url)}")
    asked = Request(wheel.url, headers={"User-Agent": "neuropod"})  # noqa: S310 - the scheme is one of two
    with urlopen(asked, timeout=_TIMEOUT_S) as answer, target.open("wb") as file:  # noqa: S310 - as above
        expected, done = int(answer.headers.get("Content-Length") or 0), 0
        _check_bound(wheel, expected)
        for chunk in _chunks(answer):
            _check_bound(wheel, done + len(chunk))
            file.write(chunk)
            if done // _TOLD_BYTES != (done + len(chunk)) // _TOLD_BYTES:
                tell(_so_far(done + len(chunk), expected or wheel.bytes))
            done += len(chunk)
    if expected and done != expected:
        raise ConnectionError(f"the connection ended after {done} of {expected} bytes")


def _check_bound(wheel: Wheel, got: int) -> None:
    bound = wheel.bytes or _MOST_BYTES
    if got > bound:
        said = "the lock says" if wheel.bytes else "are taken where the lock says no size"
        raise _TooMuchError(f"more than the {bound} bytes that {said}")


def _so_far(done: int, expected: int | None) -> str:
    return f"{done / _MEGABYTE:.0f} MB" + (f" of {expected / _MEGABYTE:.0f} MB" if expected else "")
