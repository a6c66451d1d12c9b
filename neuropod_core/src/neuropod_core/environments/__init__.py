"""Other Pythons for models: interpreters that are here, and environments built from the lock of a package.

A package may hold a lock of its requirements, ``0/pylock.toml``. An environment is built from it once, of wheels alone
whose hashes are compared, and kept in the cache.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from neuropod_core.environments._build import build, worded
from neuropod_core.environments._lent import Lent, lent_to
from neuropod_core.environments._lock import FILE_NAME, Lock, parse_lock
from neuropod_core.environments._pythons import Python, python_for, python_of
from neuropod_core.environments._store import Place, days_ago, places, prune_wheels, remove_broken
from neuropod_core.environments._wheels import Plan, Progress, Wheels, check_agrees, lacks, plan
from neuropod_core.errors import EnvironmentBuildError
from neuropod_core.package import Package
from neuropod_core.trust import Trust, check_trust

__all__ = [
    "Environment",
    "Kept",
    "Lent",
    "Progress",
    "Python",
    "environment_for",
    "export_wheels",
    "kept_environments",
    "lent_to",
    "prune_environments",
    "python_for",
    "python_of",
    "wheels_beside",
]

_FORMAT = "2"  # Those of an earlier one were not held against what their interpreter was.
_MOST_LOCK_BYTES = 4 << 20
_LOCK, _OTHER_LOCK, _HOUSE = f"0/{FILE_NAME}", "0/requirements.lock", "0/wheels"


class Environment:
    """An environment that is ready; it is not removed by others as long as this object lives.

    Attributes
    ----------
    key
        Its name in the cache.
    folder
        The virtual environment.
    python
        Its interpreter.
    built
        Whether it was built now; else it was there.
    seconds
        How long it took to build, then or now.
    """

    def __init__(self, place: Place, record: dict[str, Any], held: int | None, *, built: bool) -> None:
        self.key, self.folder, self.built = place.key, place.venv, built
        self.python = Python.from_facts(record["python"])
        self.seconds = float(record["seconds"])
        self._let_go = None if held is None else weakref.finalize(self, os.close, held)

    def close(self) -> None:
        """Let it be removed by whoever prunes, from now on."""
        if self._let_go is not None:
            self._let_go()


@dataclass(frozen=True)
class Kept:
    """An environment in the cache.

    `whole` is False for what a builder left that was killed, or whose Python is gone. `used` is a time in seconds since
    the epoch.
    """

    key: str
    name: str
    python: str
    folder: Path
    bytes: int
    used: float
    in_use: bool
    whole: bool


def environment_for(
    package: Package,
    *,
    trust: Trust | str = Trust.GRAPH,
    python: str | os.PathLike[str] | None = None,
    wheels: Sequence[Path] = (),
    offline: bool = False,
    progress: Progress | None = None,
) -> Environment:
    """Give the environment of a package's lock: from the cache, or built now.

    The wheels come from `wheels`, from ``0/wheels`` of the package, from the folder beside it (`wheels_beside`), from
    those fetched before, and from where the lock says, in this order. Who comes while another builds it waits.

    Parameters
    ----------
    package
        Opened; its lock is ``0/pylock.toml``.
    trust
        Must be ``"code"``: what is installed runs.
    python
        The interpreter, or an environment, to build it from; None for the first that fits the lock's
        ``requires-python`` and has all wheels: the current one, ``PATH``, pyenv, uv.
    wheels
        More folders with wheels.
    offline
        Whether nothing may be fetched.
    progress
        Called with one line for each step that takes time; not at all if the environment is there.

    Raises
    ------
    TrustError
        If trust is less; nothing was read.
    EnvironmentBuildError
        If it cannot be built; `reason` says why.
    InterpreterError
        If no interpreter fits.
    PackageError
        If the lock is none.
    """
    check_trust(Trust.CODE, Trust.parse(trust), "the distributions of its lock are installed", str(package.path))
    lock = _lock_of(package)
    tell = progress or (lambda _: None)
    place = Place(_key(lock, _other_lock_of(package), python))
    if (ready := _ready(place, built=False)) is not None:
        return ready
    waiting = "waiting for another process that builds it"
    with place.removed_unless_whole(), worded(str(place.folder)), place.alone(lambda: tell(waiting)) as held:
        built = place.record() is None
        if built:
            remove_broken()
            chosen = _plan(package, lock, python)
            _warn_of_numpy(chosen, tell)
            found = Wheels(place.folder, _folders(package, wheels), offline, tell, f"{package.path}: {_LOCK}")
            build(place, lock, chosen, found, name=package.config.name, held=held)
    ready = _ready(place, built=built)
    if ready is None:
        what = "the environment was removed as soon as it was built"
        raise EnvironmentBuildError("install", what, str(place.folder), "try again")
    return ready


def export_wheels(
    package: Package,
    folder: Path | None = None,
    *,
    python: str | os.PathLike[str] | None = None,
    wheels: Sequence[Path] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """Put every wheel that an environment of the package needs into a folder; nothing is installed, nothing is run.

    Parameters
    ----------
    package
        Opened; its lock is ``0/pylock.toml``.
    folder
        Where to; None for the folder beside the package, where `environment_for` finds them.
    python, wheels, progress
        As for `environment_for`: the wheels are those for this interpreter and machine.

    Returns
    -------
    The files, their hashes compared.

    Raises
    ------
    EnvironmentBuildError, InterpreterError, PackageError
        As for `environment_for`.
    """
    lock = _lock_of(package)
    chosen = _plan(package, lock, python)
    target = folder or wheels_beside(package.path)
    place = Place(f"export-{os.urandom(8).hex()}")
    tell = progress or (lambda _: None)
    found = Wheels(place.folder, _folders(package, wheels), progress=tell, at=f"{package.path}: {_LOCK}")
    with place.removed_unless_whole(), worded(str(target)), place.alone(lambda: None), place.workplace():
        wheels_here = found.obtain(chosen)
        target.mkdir(parents=True, exist_ok=True)
        return [_copied(path, target) for path in wheels_here]


def wheels_beside(package: Path) -> Path:
    """Give the folder beside a package where its wheels may lie: ``digits.neuropod.wheels``."""
    return package.with_name(f"{package.name}.wheels")


def kept_environments() -> list[Kept]:
    """List the environments in the cache."""
    return [_kept(place) for place in places() if place.folder.exists()]


def prune_environments(*, days: float = 30, everything: bool = False) -> tuple[list[Kept], int]:
    """Remove environments and fetched wheels that were not used for a time, and what killed builders left.

    Parameters
    ----------
    days
        How long; environments in use stay in any case.
    everything
        Whether those used later go too.

    Returns
    -------
    What was removed, and the number of wheels.
    """
    before = days_ago(0 if everything else days)
    found = [(place, _kept(place)) for place in places()]
    return [kept for place, kept in found if place.remove(before=before)], prune_wheels(before)


# -- details ----------------------------------------------------------------------------------------------------------


def _lock_of(package: Package) -> Lock:
    if _LOCK not in package.files:
        remedy = "package the model again with requirements='...' and neuropod-python[lock], which writes it"
        raise EnvironmentBuildError(
            "lock", f"has no {_LOCK} with the hashes of its requirements", str(package.path), remedy
        )
    package.folder()  # Compares it with the manifest.
    return parse_lock(package.read(_LOCK, _MOST_LOCK_BYTES), f"{package.path}: {_LOCK}")


def _other_lock_of(package: Package) -> str:
    there = _OTHER_LOCK in package.files
    return package.read(_OTHER_LOCK, _MOST_LOCK_BYTES).decode("utf-8", "replace") if there else ""


def _key(lock: Lock, other: str, python: str | os.PathLike[str] | None) -> str:
    ours = f"{sys.implementation.cache_tag} {sysconfig.get_platform()} {platform.machine()}"
    asked = "" if python is None else str(python_of(python))
    return sha256(f"{_FORMAT}\0{lock.digest}\0{other}\0{ours}\0{asked}".encode()).hexdigest()[:32]


def _ready(place: Place, *, built: bool) -> Environment | None:
    if place.record() is None:
        return None
    held = place.shared()
    record = place.record()
    if record is not None:
        place.touch()
        return Environment(place, record, held, built=built)
    if held is not None:
        os.close(held)
    return None


def _plan(package: Package, lock: Lock, python: str | os.PathLike[str] | None) -> Plan:
    at = f"{package.path}: {_LOCK}"
    if python is None:
        chosen = plan(lock, python_for(lock.requires_python, lacks(lock, at), at), at)
    else:
        chosen = plan(lock, _admitted(python_of(python), lock, at), at)
    if _OTHER_LOCK in package.files:
        check_agrees(chosen, _other_lock_of(package), str(package.path))
    return chosen


def _warn_of_numpy(chosen: Plan, tell: Progress) -> None:
    if all(requirement.name != "numpy" for requirement, _ in chosen.wheels):
        tell("warning: the lock has no numpy, which every model needs: none can run in this environment; add it")


def _admitted(python: Python, lock: Lock, at: str) -> Python:
    from packaging.specifiers import SpecifierSet

    from neuropod_core.errors import InterpreterError

    if not SpecifierSet(lock.requires_python).contains(python.version, prereleases=True):
        raise InterpreterError(lock.requires_python, (str(python),), at, "name another, or leave it to neuropod")
    return python


def _folders(package: Package, more: Sequence[Path]) -> list[Path]:
    return [*map(Path, more), package.folder() / _HOUSE, wheels_beside(package.path)]


def _copied(wheel: Path, folder: Path) -> Path:
    target = folder / wheel.name
    if not (target.exists() and target.samefile(wheel)):
        partial = folder / f".{os.urandom(8).hex()}"
        try:
            shutil.copyfile(wheel, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _kept(place: Place) -> Kept:
    record = place.record() or {}
    return Kept(
        key=place.key,
        name=str(record.get("name", "")),
        python=str(record["python"]["version"]) if record else "",
        folder=place.venv,
        bytes=int(record.get("bytes", 0)),
        used=place.used(),
        in_use=place.in_use(),
        whole=bool(record),
    )
