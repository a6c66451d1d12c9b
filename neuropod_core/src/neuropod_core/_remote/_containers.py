"""Packages that lie elsewhere, as containers: enough of them to be described."""

from __future__ import annotations

import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from neuropod_core._containers import Archive, Container, PathCheck, check_total, open_container
from neuropod_core._remote._downloads import fetched_archive, fetched_folder
from neuropod_core._remote._files import RangedFile, RemoteFile, moved
from neuropod_core.errors import PackageLimitError, SourceError
from neuropod_core.limits import Limits
from neuropod_core.sources import OnTransfer

__all__ = ["RemoteArchive", "RemoteContainer", "RemoteFolder"]

_HEADER_BYTES = 30  # the least that lies before the content of an entry (APPNOTE 4.3.7)
_CHUNK_BYTES = 8 << 20


class RemoteContainer(Container):
    """A package elsewhere; whoever needs its files fetches it."""

    path = Path()
    lasts = True
    newest_ns = 0

    @abstractmethod
    def fetched(
        self, place: Path, limits: Limits, pin: str, report: OnTransfer | None
    ) -> AbstractContextManager[tuple[Container, str]]:
        """Give it as it is on this machine, fetched into `place` until the block ends, and the archive's sha256."""

    def close(self) -> None:
        """Nothing is open between two reads."""


class RemoteZip(RemoteContainer):
    """A zip file elsewhere of which nothing is known before it is fetched."""

    def __init__(self, remote: RemoteFile) -> None:
        self.remote, self.place, self.stamp = remote, remote.place, remote.stamp
        self.files = {}

    def stream(self, name: str) -> Iterator[bytes]:
        """Refuse to read a part of it."""
        raise SourceError(f"its server gives no parts, and so no {name}", self.place)

    @contextmanager
    def fetched(
        self, place: Path, limits: Limits, pin: str, report: OnTransfer | None
    ) -> Iterator[tuple[Container, str]]:
        """See `RemoteContainer.fetched`."""
        with fetched_archive(self.remote, place, limits, pin, report) as (path, digest):
            yield open_container(path, limits, self.place), digest


class RemoteArchive(Archive, RemoteZip):
    """A zip file elsewhere, of which the directory is read, and what else is asked for."""

    path = Path()
    lasts = True

    def __init__(self, remote: RemoteFile, limits: Limits) -> None:
        RemoteZip.__init__(self, remote)
        if remote.size is None:
            raise SourceError("does not say how long it is", remote.place)
        if remote.size > limits.total_bytes:
            raise PackageLimitError("bytes of an archive", limits.total_bytes, remote.size, remote.place)
        self._open(cast("BinaryIO", RangedFile(remote, remote.size)), remote.size, limits)

    def close(self) -> None:
        """Nothing is open between two reads."""

    def _header_bytes(self, entry: zipfile.ZipInfo) -> int:
        # Looking at every header would ask the server for each file; what was fetched is looked at closely.
        return _HEADER_BYTES + len(entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"))


class RemoteFolder(RemoteContainer):
    """A folder elsewhere, as a list of files."""

    def __init__(self, place: str, listing: Callable[[], dict[str, RemoteFile]], limits: Limits) -> None:
        self.place, self._listing = place, listing
        remotes = listing()
        paths = PathCheck(limits, place)
        for name in remotes:
            paths.add(name)
        self.remotes = dict(sorted(remotes.items()))
        self.files = {name: _size_of(remote) for name, remote in self.remotes.items()}
        check_total(sum(self.files.values()), limits, place)
        self.stamp = ""

    def stream(self, name: str) -> Iterator[bytes]:
        """Give the content of a file in pieces."""
        for start in range(0, self.files[name], _CHUNK_BYTES):
            yield self.remotes[name].read(start, min(start + _CHUNK_BYTES, self.files[name]))

    @contextmanager
    def fetched(
        self, place: Path, limits: Limits, pin: str, report: OnTransfer | None
    ) -> Iterator[tuple[Container, str]]:
        """See `RemoteContainer.fetched`."""
        del pin  # Refused before: a folder has no hash of its own.
        with fetched_folder(self.remotes, self.place, place, limits, report) as path:
            self._check_unchanged()
            yield open_container(path, limits, self.place), ""

    def _check_unchanged(self) -> None:
        # A listing is compared with a listing: drivers tell more, or in other words, of a file that is asked for alone.
        if {name: remote.stamp for name, remote in self._listing().items()} != {
            name: remote.stamp for name, remote in self.remotes.items()
        }:
            raise moved(self.place)


def _size_of(remote: RemoteFile) -> int:
    if remote.size is None:
        raise SourceError("does not say how long it is", remote.place)
    return remote.size
