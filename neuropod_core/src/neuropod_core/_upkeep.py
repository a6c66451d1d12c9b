"""Looks after the cache: what lies in it, what may go, what is damaged; what a live process has open is not touched.

A process that has content open holds a shared lock of its file in ``uses`` (see `_cache`). Content is taken away under
the exclusive lock, by one rename, together with that file. Where a file system has no locks, nobody knows what is open,
and nothing goes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuropod_core._cache import Cache, everything_in, lock_file, read_json, remove_tree
from neuropod_core._containers import Folder
from neuropod_core.config import Config, Manifest
from neuropod_core.errors import NeuropodError
from neuropod_core.limits import Limits

__all__ = ["Beginning", "Entry", "Upkeep"]

_CONFIG, _MANIFEST, _RECORD = "config.json", "manifest.json", "record.json"
_IN_PLACE = "in place"
_MOST_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class Entry:
    """The unpacked content of one package.

    Attributes
    ----------
    key, folder
        What it is addressed by, and where it lies.
    name, platform
        What its declaration says; empty where that cannot be read.
    size, files
        Bytes and number of its files.
    used_at
        When it was opened last, to a minute; seconds since the epoch.
    sources
        The files and URLs that it came from, as far as that is known.
    whole
        Whether every file has the length and the time with which it was written.
    in_use
        Whether a live process has it open; None where there are no locks to tell it.
    """

    key: str
    folder: Path
    name: str
    platform: str
    size: int
    files: int
    used_at: float
    sources: tuple[str, ...]
    whole: bool
    in_use: bool | None


@dataclass(frozen=True)
class Beginning:
    """What has come of a package that is, or was, being fetched.

    Attributes
    ----------
    folder, source
        Where it lies, and where it comes from.
    size
        Bytes that are here.
    used_at
        When something came last; seconds since the epoch.
    in_use
        Whether a live process is fetching it; None where there are no locks to tell it.
    """

    folder: Path
    source: str
    size: int
    used_at: float
    in_use: bool | None


class Upkeep(Cache):
    """The same folder, for those who look after it."""

    def entries(self) -> list[Entry]:
        """List what is unpacked, what was used last first."""
        sources = self._sources()
        found = [self._entry(folder, sources) for folder in _inside(self.packages) if folder.is_dir()]
        return sorted(found, key=lambda entry: -entry.used_at)

    def beginnings(self) -> list[Beginning]:
        """List what is not fetched to its end, what came last first."""
        found = [self._beginning(folder) for folder in _inside(self._downloads) if folder.is_dir()]
        return sorted(found, key=lambda beginning: -beginning.used_at)

    def remove(self, entry: Entry) -> bool:
        """Take content away, unless somebody has it open; give whether that was done."""
        with _sole(self._uses / entry.key) as sole:
            if not sole:
                return False
            with self._workplace() as work:
                with contextlib.suppress(FileNotFoundError):
                    entry.folder.rename(work / "pruned")
                with contextlib.suppress(OSError):
                    (self._uses / entry.key).unlink()
        return True

    def remove_beginning(self, beginning: Beginning) -> bool:
        """Take away what was not fetched to its end, unless somebody is at it; give whether that was done."""
        lock = beginning.folder.with_suffix(".lock")
        with _sole(lock) as sole:
            if not sole:
                return False
            remove_tree(beginning.folder)
            with contextlib.suppress(OSError):
                lock.unlink()
        return True

    def dead(self) -> list[Path]:
        """List what dead processes left of unpacking."""
        return [path for path in self.leftovers() if path.parent == self._unpacking]

    def tidy(self) -> None:
        """Remove what dead processes left, and notes about content that is not there any more."""
        self._remove_orphans()
        there = {folder.name for folder in _inside(self.packages)} | {_IN_PLACE}
        for note in [*_inside(self._index), *_inside(self._pins)]:
            said = read_json(note)
            gone = said.get("key") == _IN_PLACE and not Path(str(said.get("source"))).exists()
            if said.get("key") not in there or gone:
                note.unlink(missing_ok=True)
        for lock in _inside(self._uses):
            if lock.name not in there:
                self._remove_lock(lock)
        for lock in _inside(self._downloads):
            if lock.suffix == ".lock" and not lock.with_suffix("").exists():
                self._remove_lock(lock)

    def damage(self, entry: Entry) -> str:
        """Read every file and compare it with the manifest; say what is wrong, or nothing."""
        content = entry.folder / "content"
        try:
            found = Folder(content, Limits())
            expected = _expected(entry, content)
            missing, more = sorted(set(expected) - set(found.files)), sorted(set(found.files) - set(expected))
            if missing or more:
                return f"{missing[0]} is missing" if missing else f"{more[0]} does not belong there"
            for name, digest in expected.items():
                if (got := found.digest(name)) != digest:
                    return f"{name}: expected sha256 {digest}, got {got}"
        except NeuropodError as error:
            return str(error)
        return "" if entry.whole else "a file was written to, or its record is lost"

    # -- details

    def _entry(self, folder: Path, sources: dict[str, list[str]]) -> Entry:
        content, key = folder / "content", folder.name
        name, platform = _declared(content)
        size, files = _measured(content)
        lock = self._uses / key
        return Entry(
            *(key, folder, name, platform, size, files),
            used_at=max(_time_of(lock), _time_of(folder / _RECORD)),
            sources=tuple(sorted(sources.get(key, ()))),
            whole=self.content(key) is not None,
            in_use=_is_held(lock),
        )

    def _beginning(self, folder: Path) -> Beginning:
        size, _ = _measured(folder)
        used_at = max(map(_time_of, everything_in(folder)), default=_time_of(folder))
        source = str(read_json(folder / "state.json").get("source", ""))
        return Beginning(folder, source, size, used_at, _is_held(folder.with_suffix(".lock")))

    def _sources(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for note in map(read_json, _inside(self._index)):
            found.setdefault(str(note.get("key")), []).append(str(note.get("source")))
        return found

    def _remove_lock(self, lock: Path) -> None:
        with _sole(lock) as sole, contextlib.suppress(OSError):
            if sole:
                lock.unlink()


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _expected(entry: Entry, content: Path) -> dict[str, str]:
    """Give the hash of each file, from what the key vouches for."""
    manifest = content / _MANIFEST
    if manifest.is_file():
        data = manifest.read_bytes() if manifest.stat().st_size <= _MOST_JSON_BYTES else b""
        return {**Manifest.from_bytes(data, str(manifest)).files, _MANIFEST: entry.key}
    recorded = read_json(entry.folder / _RECORD).get("sha256")
    return {str(name): str(digest) for name, digest in recorded.items()} if isinstance(recorded, dict) else {}


def _declared(content: Path) -> tuple[str, str]:
    try:
        with (content / _CONFIG).open("rb") as file:
            config = Config.from_bytes(file.read(_MOST_JSON_BYTES), _CONFIG)
    except (OSError, NeuropodError):
        return "", ""
    return config.name, config.platform


def _measured(folder: Path) -> tuple[int, int]:
    """Give the bytes and the number of the files below."""
    sizes = []
    for path in everything_in(folder):
        with contextlib.suppress(OSError):
            status = path.stat(follow_symlinks=False)
            sizes += [] if path.is_dir() else [status.st_size]
    return sum(sizes), len(sizes)


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_held(lock: Path) -> bool | None:
    if not lock.exists():
        return False
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return None
    try:
        held = lock_file(descriptor)
    finally:
        os.close(descriptor)
    return None if held is None else not held


@contextmanager
def _sole(lock: Path) -> Iterator[bool]:
    """Hold a lock that nobody else holds, if that can be had at once."""
    try:
        lock.parent.mkdir(exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield False
        return
    try:
        # If the file is gone, another one is locked by now, perhaps by one who uses the content.
        yield bool(lock_file(descriptor)) and os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)
