"""Brings a package from elsewhere into the cache, and goes on where an earlier try was cut off.

::

    <root>/v1/downloads/<key>/part         what has come of an archive
    <root>/v1/downloads/<key>/files/<n>    what has come of the files of a folder
    <root>/v1/downloads/<key>/state.json   of which state of the source that is
    <root>/v1/downloads/<key>.lock         held by the one that fetches; others wait for it, and find its work

Whatever is there is a beginning at most: it is believed when its length and its hash are right, and not before.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import BinaryIO

from neuropod_core._cache import read_json, remove_tree
from neuropod_core._containers import archive_digest
from neuropod_core._remote._files import Interruption, RemoteFile
from neuropod_core.errors import PackageError, PackageIntegrityError, PackageLimitError, SourceError
from neuropod_core.limits import Limits
from neuropod_core.sources import OnTransfer, Transfer

__all__ = ["fetched_archive", "fetched_folder"]

_TRIES = 5
_FIRST_PAUSE_S = 0.1
_PROGRESS_BYTES = 64 << 10  # A try that brought less counts as failed.
_REPORT_EVERY_S, _LOG_EVERY_S = 0.1, 10.0

_logger = logging.getLogger("neuropod")


@contextmanager
def fetched_archive(
    remote: RemoteFile, place: Path, limits: Limits, pin: str, report: OnTransfer | None
) -> Iterator[tuple[Path, str]]:
    """Give a zip file and its sha256, fetched into the folder `place` and gone after the block.

    After a loss of the connection what has come stays for the next try; after an error of the content nothing does.

    Raises
    ------
    SourceError
        If it cannot be fetched.
    PackageIntegrityError
        If its hash is not `pin`, where there is one; or it changed meanwhile.
    """
    with _beginning(place, remote.stamp or pin, remote.place):
        part = place / "part"
        if not remote.ranged:
            part.unlink(missing_ok=True)
        progress = _Progress(remote.place, remote.size, _size_of(part), report)
        _check_room(place, remote, limits, progress.resumed_at)
        _receive(remote, part, limits, progress)
        remote.check_unchanged()
        digest = archive_digest(part)
        if pin and digest != pin:
            remedy = "the archive is another one by now, or was damaged on its way: ask who gave you the hash"
            raise PackageIntegrityError(remote.place, f"sha256 {pin}", digest, remedy)
        _logger.info("fetched %s: %d bytes, sha256=%s", remote.place, _size_of(part), digest)
        yield part, digest


@contextmanager
def fetched_folder(
    remotes: Mapping[str, RemoteFile], source: str, place: Path, limits: Limits, report: OnTransfer | None
) -> Iterator[Path]:
    """Give a folder with all files of one that lies elsewhere, gone after the block."""
    stamps = [remote.stamp for remote in remotes.values()]
    stamp = sha256(json.dumps([list(remotes), stamps]).encode()).hexdigest() if all(stamps) else ""
    with _beginning(place, stamp, source):
        parts = place / "files"
        parts.mkdir(exist_ok=True)
        there = sum(map(_size_of, parts.iterdir()))
        progress = _Progress(source, sum(remote.size or 0 for remote in remotes.values()), there, report)
        for number, remote in enumerate(remotes.values()):
            _receive(remote, parts / str(number), limits, progress)
        yield _assembled(place, parts, list(remotes))


@contextmanager
def _beginning(place: Path, stamp: str, source: str) -> Iterator[None]:
    """Keep what an earlier try left, if it is of the same state; afterwards remove what the next try cannot use."""
    if not stamp or read_json(place / "state.json").get("stamp") != stamp:
        remove_tree(place)
    place.mkdir(parents=True, exist_ok=True)
    (place / "state.json").write_text(json.dumps({"stamp": stamp, "source": source}), "utf-8")
    try:
        yield
    except (SourceError, OSError, KeyboardInterrupt) as error:
        if not stamp or (isinstance(error, PackageError) and not isinstance(error, SourceError)):
            remove_tree(place)
        raise
    except BaseException:
        remove_tree(place)
        raise
    remove_tree(place)


def _receive(remote: RemoteFile, part: Path, limits: Limits, progress: _Progress) -> None:
    """Fetch what is missing of a file, again and again while there is progress."""
    with part.open("ab") as file:
        if remote.size is not None and file.tell() > remote.size:
            file.truncate(0)
        progress.add(file.tell())
        failures = 0
        while remote.size is None or file.tell() < remote.size:
            begin = file.tell()
            try:
                _receive_once(remote, file, limits, progress)
            except Interruption as error:
                failures = 0 if remote.ranged and file.tell() - begin >= _PROGRESS_BYTES else failures + 1
                _wait_after(failures, error, remote, file.tell())
                if not remote.ranged:
                    progress.add(-file.tell())
                    file.truncate(0)
            else:
                break
        progress.end()


def _receive_once(remote: RemoteFile, file: BinaryIO, limits: Limits, progress: _Progress) -> None:
    most = limits.unannounced_bytes if remote.size is None else remote.size
    for piece in remote.stream(file.tell()):
        if file.tell() + len(piece) > most:
            raise PackageLimitError("bytes of unannounced length", most, most + 1, remote.place, "download it first")
        file.write(piece)
        progress.add(len(piece))


def _wait_after(failures: int, error: Interruption, remote: RemoteFile, there: int) -> None:
    _logger.debug("%s: %s; %d bytes are here", remote.place, error, there)
    if failures >= _TRIES:
        kept = remote.ranged and bool(remote.validator)
        remedy = "try again: it goes on from there" if kept else "try again"
        what = f"broke off after {there} of {remote.size or 'unknown'} bytes: {error}"
        raise SourceError(what, remote.place, remedy) from error
    Event().wait(_FIRST_PAUSE_S * 2**failures if failures else 0)


def _check_room(place: Path, remote: RemoteFile, limits: Limits, there: int) -> None:
    if remote.size is None:
        return
    if remote.size > limits.total_bytes:
        raise PackageLimitError("bytes of an archive", limits.total_bytes, remote.size, remote.place)
    free, wanted = shutil.disk_usage(place).free, remote.size - there
    if wanted > free:
        remedy = "make room, or choose another cache folder"
        raise PackageError(f"has {wanted} bytes to fetch, {place} has room for {free}", remote.place, remedy)


def _assembled(place: Path, parts: Path, names: list[str]) -> Path:
    """Put the files where they belong; a name is a path that was checked."""
    whole = place / "whole"
    remove_tree(whole)
    for number, name in enumerate(names):
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / str(number)).rename(whole / name)
    return whole


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Progress:
    """Counts, and tells those who want to know: a callback often, the log seldom."""

    def __init__(self, place: str, total: int | None, resumed_at: int, report: OnTransfer | None) -> None:
        self.place, self.total, self.resumed_at, self.received = place, total, resumed_at, 0
        self._report: Callable[[Transfer], None] = report or (lambda _: None)
        self._reported = self._logged = time.monotonic()
        _logger.info("fetching %s: %s bytes, %d are here", place, "unknown" if total is None else total, resumed_at)

    def add(self, count: int) -> None:
        """Count bytes that are here now."""
        self.received += count
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY_S:
            self._reported = now
            self.end()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            _logger.info("fetching %s: %d of %s bytes", self.place, self.received, self.total or "unknown")

    def end(self) -> None:
        """Tell how far it is."""
        self._report(Transfer(self.place, self.received, self.total, self.resumed_at))
