"""Where environments and wheels are kept: below the cache's folder, each environment under a lock of its own.

::

    <cache>/v1/environments/<key>/venv/...      a virtual environment
    <cache>/v1/environments/<key>/record.json   what it is; written last, so an environment without it is not whole
    <cache>/v1/environments/<key>/used          its time is that of the last use
    <cache>/v1/environments/<key>.lock          held alone by who builds or removes it, and together by who uses it
    <cache>/v1/wheels/<sha256>/<name>           wheels that were fetched

The programs that build inherit the lock: what a killed builder started is over before anybody builds again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuropod_core._cache import default_root, lock_file, remove_tree

__all__ = ["Place", "days_ago", "places", "prune_wheels", "remove_broken", "store", "wheel_folder"]

RECORD, USED, VENV = "record.json", "used", "venv"


def store() -> Path:
    """Give the folder that all of it lies in."""
    return default_root().absolute() / "v1" / "environments"


def wheel_folder(digest: str) -> Path:
    """Give the folder for the wheel with this SHA-256."""
    return default_root().absolute() / "v1" / "wheels" / digest


def places() -> list[Place]:
    """List the environments, those that are not whole included."""
    names = {path.name.removesuffix(".lock") for path in store().glob("*")} if store().is_dir() else set()
    return [Place(name) for name in sorted(names)]


class Place:
    """The place of one environment."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.folder = store() / key
        self.venv = self.folder / VENV

    def record(self) -> dict[str, Any] | None:
        """Give what was written down about it; None if it is not whole, or what it was made from is gone."""
        try:
            record = json.loads((self.folder / RECORD).read_bytes())
            there = os.path.exists(record["base"])  # noqa: PTH110 - a pathlib one raises where it may not look
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if there else None

    def complete(self, record: dict[str, Any]) -> None:
        """Write down that it is whole, and what it is."""
        partial = self.folder / f".{RECORD}"
        partial.write_text(json.dumps(record), "utf-8")
        partial.replace(self.folder / RECORD)

    def touch(self) -> None:
        """Note that it is used now; where that cannot be written, it looks unused."""
        with contextlib.suppress(OSError):
            (self.folder / USED).touch()

    def used(self) -> float:
        """Give the time of the last use, in seconds since the epoch; 0 if there was none."""
        try:
            return (self.folder / USED).stat().st_mtime
        except OSError:
            return 0.0

    def shared(self) -> int | None:
        """Hold it against removal; give the descriptor that holds it, None where nobody can remove it either."""
        while True:
            try:
                descriptor = self._opened()
            except OSError:  # It is part of an image, or another user's.
                return None
            lock_file(descriptor, wait=True, shared=True)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # It was removed meanwhile.

    @contextmanager
    def alone(self, waiting: Callable[[], None]) -> Iterator[int]:
        """Let one at a time into the block; `waiting` is called where another is in it."""
        while True:
            descriptor = self._opened()
            try:
                if lock_file(descriptor) is False:
                    waiting()
                    lock_file(descriptor, wait=True)
                if os.fstat(descriptor).st_nlink:  # Else it was removed meanwhile, and another has its name.
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def remove(self, *, before: float | None = None) -> bool:
        """Remove it, unless it is in use, was used later than `before`, or is another's; tell whether it is gone."""
        if before is not None and self.record() is not None and self.used() >= before:
            return False
        try:
            descriptor = self._opened()
        except OSError:  # It is another user's.
            return False
        try:
            if not lock_file(descriptor):  # Nor where there are no locks: it may be in use.
                return False
            if before is not None and self.record() is not None and self.used() >= before:
                return False  # It was built, or used, meanwhile.
            self.clear()
            with contextlib.suppress(OSError):  # The cache is not to be written.
                self._lock().unlink(missing_ok=True)
            return not self.folder.exists()
        finally:
            os.close(descriptor)

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """Give its folder, empty; what is there when the block fails, or does not complete it, is removed."""
        self.clear()
        try:
            self.folder.mkdir(parents=True, mode=0o700)
            yield self.folder
        finally:
            if self.record() is None:
                self.clear()

    @contextmanager
    def removed_unless_whole(self) -> Iterator[None]:
        """Leave neither files nor a lock where the block ends without an environment that is whole."""
        try:
            yield
        finally:
            if self.record() is None:
                self.remove(before=0.0)

    def in_use(self) -> bool:
        """Whether a process holds it."""
        try:
            descriptor = os.open(self._lock(), os.O_RDWR)
        except OSError:
            return False
        try:
            return lock_file(descriptor) is False
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Remove its files, its record first."""
        with contextlib.suppress(OSError):
            (self.folder / RECORD).unlink(missing_ok=True)
        remove_tree(self.folder)

    def _lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    def _opened(self) -> int:
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(self._lock(), os.O_RDWR | os.O_CREAT, 0o600)


def remove_broken() -> None:
    """Remove what killed builders left."""
    for place in places():
        if place.record() is None:
            place.remove()


def prune_wheels(before: float) -> int:
    """Remove fetched wheels that were not used since `before`; give their number."""
    folder, removed = wheel_folder(""), 0
    for wheels in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if wheels.stat().st_mtime < before:
                remove_tree(wheels)
                removed += 1
    return removed


def days_ago(days: float) -> float:
    """Give a time in seconds since the epoch."""
    return time.time() - days * 86_400
