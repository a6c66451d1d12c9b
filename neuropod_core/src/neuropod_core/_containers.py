"""Reads the files of a package from a folder or from an archive, believing nothing of what they say.

Paths come out relative, with ``/``; links, special files, duplicates, absolute paths and ``..`` are refused before any
file is opened.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from neuropod_core.errors import PackageError, PackageFormatError, PackageIntegrityError, PackageLimitError, shown
from neuropod_core.limits import Limits

_CHUNK_BYTES = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")


class Container(ABC):
    """The files of a package, wherever they lie.

    `files` maps each relative path to its size in bytes. `stamp` names the present state of the whole without reading
    its content: two equal stamps mean that nothing was written in between. `newest_ns` is when it was last written to.
    `place` is what errors call it; `lasts` says that it is read after `close` as before.
    """

    path: Path
    place: str
    lasts: bool = False
    files: Mapping[str, int]
    stamp: str
    newest_ns: int

    @abstractmethod
    def stream(self, name: str) -> Iterator[bytes]:
        """Give the content of a file in pieces; its length and checksum are those that were announced."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    def read(self, name: str, limit: int) -> bytes:
        """Read a whole file of at most `limit` bytes."""
        if self.files[name] > limit:
            raise PackageLimitError("bytes", limit, self.files[name], f"{self.place}: {name}")
        return b"".join(self.stream(name))

    def copy(self, name: str, target: BinaryIO) -> str:
        """Write a file to `target`; give its sha256 in hex."""
        digest = sha256()
        for piece in self.stream(name):
            digest.update(piece)
            target.write(piece)
        return digest.hexdigest()

    def digest(self, name: str) -> str:
        """Give the sha256 of a file in hex."""
        digest = sha256()
        for piece in self.stream(name):
            digest.update(piece)
        return digest.hexdigest()


def open_container(path: Path, limits: Limits, place: str = "") -> Container:
    """Open a folder or an archive; `place` is its name in errors, where that is not its path."""
    place = place or str(path)
    with _zip_errors(place):
        mode = path.stat().st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):  # A pipe would wait for ever, a device never end.
        raise PackageFormatError("is neither a file nor a folder", place)
    return Folder(path, limits, place) if stat.S_ISDIR(mode) else Archive(path, limits, place)


class Folder(Container):
    """A package as a folder."""

    def __init__(self, path: Path, limits: Limits, place: str = "") -> None:
        self.path, self.place = path, place or str(path)
        found = dict(sorted(_walk(path, limits, self.place)))
        self.files = {name: status.st_size for name, status in found.items()}
        check_total(sum(self.files.values()), limits, self.place)
        self.newest_ns = max(map(_written_ns, found.values()), default=0)
        self.stamp = _stamp(found.items())

    def stream(self, name: str) -> Iterator[bytes]:
        return _pieces_of(self.path / name, self.files[name], f"{self.place}: {name}")

    def close(self) -> None:
        pass


class Archive(Container):
    """A package as a zip file."""

    def __init__(self, path: Path, limits: Limits, place: str = "") -> None:
        self.path, self.place = path, place or str(path)
        with _zip_errors(self.place):
            file = path.open("rb")
        try:
            status = os.fstat(file.fileno())
            self.stamp, self.newest_ns = _stamp([("", status)]), _written_ns(status)
            self._open(file, status.st_size, limits)
        except BaseException:
            file.close()
            raise

    def _open(self, file: BinaryIO, size: int, limits: Limits) -> None:
        self._file = file
        with _zip_errors(self.place):
            count = _checked_entry_count(file, size, limits, self.place)
            self._zip = zipfile.ZipFile(file)
            if len(self._zip.infolist()) != count:  # Another reader would see another package.
                what = f"its end record counts {count} entries, there are {len(self._zip.infolist())}"
                raise PackageFormatError(f"is no sound zip archive: {what}", self.place)
            self._entries = {_entry_path(entry): entry for entry in self._checked_entries(limits)}
            self._check_no_overlap()
        self.files = {name: entry.file_size for name, entry in sorted(self._entries.items())}

    def _check_no_overlap(self) -> None:
        _check_no_overlap(self._entries.values(), self._zip.start_dir, self.place, self._header_bytes)

    def _header_bytes(self, entry: zipfile.ZipInfo) -> int:
        """Give the length of what lies before the content of an entry: the local header, its name and extra field."""
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL_BYTES)
        if len(header) < _LOCAL_BYTES or header[:4] != _LOCAL:
            raise PackageFormatError("has no local header", f"{self.place}: {shown(entry.filename)}")
        name, extra = struct.unpack("<2H", header[26:30])
        return int(_LOCAL_BYTES + name + extra)

    def _checked_entries(self, limits: Limits) -> list[zipfile.ZipInfo]:
        entries = self._zip.infolist()
        paths = PathCheck(limits, self.place)
        for entry in entries:
            paths.add(_entry_path(entry), folder=entry.is_dir())
            _check_entry(entry, self.place)
        unpacked, packed = (sum(getattr(entry, key) for entry in entries) for key in ("file_size", "compress_size"))
        check_total(unpacked, limits, self.place)
        granted = max(limits.expansion_free_bytes, limits.expansion * packed)
        if unpacked > granted:
            remedy = "store it without compression, or pass larger limits"
            raise PackageLimitError(f"bytes unpacked from {packed}", granted, unpacked, self.place, remedy)
        return [entry for entry in entries if not entry.is_dir()]

    def stream(self, name: str) -> Iterator[bytes]:
        entry, left = self._entries[name], self._entries[name].file_size
        with _zip_errors(f"{self.place}: {name}"), self._zip.open(entry) as source:
            while piece := source.read(_CHUNK_BYTES):
                left -= len(piece)
                yield piece
        if left:
            raise PackageIntegrityError(
                f"{self.place}: {name}", f"{entry.file_size} bytes", f"{entry.file_size - left} bytes"
            )

    def close(self) -> None:
        self._zip.close()
        self._file.close()


# -- paths ------------------------------------------------------------------------------------------------------------


class PathCheck:
    """Collects the paths of a package and refuses those that lead out of it or meet each other."""

    def __init__(self, limits: Limits, at: str) -> None:
        self._limits, self._at = limits, at
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, path: str, *, folder: bool = False) -> None:
        """Take one more path, or raise what is wrong with it."""
        parts = (path[:-1] if folder and path.endswith("/") else path).split("/")
        self._check_parts(path, parts)
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        own = "/".join(parts)
        if own in self._files or (own in self._folders and not folder) or above & self._files:
            raise PackageFormatError(f"{shown(path)} comes twice, or is both a file and a folder", self._at)
        (self._folders if folder else self._files).add(own)
        self._folders |= above
        if len(self._files) > self._limits.files or len(self._folders) > self._limits.files:
            most = max(len(self._files), len(self._folders))
            raise PackageLimitError("files", self._limits.files, most, self._at)

    def _check_parts(self, path: str, parts: list[str]) -> None:
        if len(path) > self._limits.path_characters:
            raise PackageLimitError("characters of a path", self._limits.path_characters, len(path), self._at)
        if len(parts) > self._limits.path_depth:
            raise PackageLimitError("folders in a path", self._limits.path_depth, len(parts), self._at)
        odd = "\\" in path or not path.isprintable() or _DRIVE.match(path)
        if odd or any(part in ("", ".", "..") for part in parts):
            raise PackageFormatError(f"{shown(path)} is no relative path inside of the package", self._at)


def _walk(root: Path, limits: Limits, place: str) -> Iterator[tuple[str, os.stat_result]]:
    paths = PathCheck(limits, place)
    waiting = [("", root)]
    while waiting:
        above, folder = waiting.pop()
        for item in _scanned(folder):
            name = f"{above}{item.name}"
            status = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                paths.add(name, folder=True)
                waiting.append((f"{name}/", Path(item.path)))
            elif stat.S_ISREG(status.st_mode):
                paths.add(name)
                yield name, status
            else:
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
                raise PackageFormatError(f"{shown(name)} is {kind}", place, "put the file itself there")


def _scanned(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError as error:
        raise PackageFormatError(f"cannot be read: {error.strerror}", str(folder)) from error


def check_total(total: int, limits: Limits, place: str) -> None:
    """Refuse files that are larger together than the reader grants."""
    if total > limits.total_bytes:
        raise PackageLimitError("bytes in all files", limits.total_bytes, total, place)


def _stamp(files: Iterable[tuple[str, os.stat_result]]) -> str:
    digest = sha256()
    for name, s in files:
        digest.update(f"{name}\0{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino} {s.st_dev}\0".encode())
    return digest.hexdigest()


def _written_ns(status: os.stat_result) -> int:
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _pieces_of(path: Path, size: int, at: str) -> Iterator[bytes]:
    """Read a regular file that has not changed its size since it was listed; never follow a link put in its place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb", buffering=0) as source:
            left = size
            while left and (piece := source.read(min(left, _CHUNK_BYTES))):
                left -= len(piece)
                yield piece
            if left or source.read(1):
                raise PackageIntegrityError(at, f"{size} bytes", "another size: it was changed while it was read")
    except OSError as error:
        raise PackageFormatError(f"cannot be read: {error.strerror}", at) from error


# -- archives ---------------------------------------------------------------------------------------------------------

_END, _END64_LOCATOR, _END64, _LOCAL = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06", b"PK\x03\x04"
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _LOCAL_BYTES = 22, 56, 20, 30
_LONGEST_COMMENT = 0xFFFF
_ENCRYPTED, _UTF8 = 0x1, 0x800
_ENTRY_BYTES = 46  # the least that an entry takes in the central directory (APPNOTE 4.3.12)


def archive_digest(path: Path, stamp: str = "") -> str:
    """Give the sha256 of an archive itself, which must still be the one of `stamp`, if that is given."""
    digest = sha256()
    with _zip_errors(path), path.open("rb") as source:
        if stamp and _stamp([("", os.fstat(source.fileno()))]) != stamp:
            raise changed(str(path))
        while piece := source.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def changed(place: str) -> PackageIntegrityError:
    """Make the error of a package that is not any more what it was when it was opened."""
    return PackageIntegrityError(place, "the package that was opened", "one that was changed since", "open it again")


@contextmanager
def _zip_errors(at: object) -> Iterator[None]:
    try:
        yield
    except PackageError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PackageFormatError(f"is no sound zip archive: {error}", str(at)) from error
    except OSError as error:
        raise PackageFormatError(f"cannot be read: {error.strerror or error}", str(at)) from error
    except (struct.error, ValueError, LookupError, NotImplementedError, RuntimeError, OverflowError) as error:
        # What `zipfile` raises on archives that somebody damaged with care.
        raise PackageFormatError(f"is no sound zip archive: {type(error).__name__}: {error}", str(at)) from error


def _checked_entry_count(file: BinaryIO, size: int, limits: Limits, place: str) -> int:
    """Bound the central directory before `zipfile` reads it (APPNOTE 4.3.14 to 4.3.16); count its entries."""
    if size < _END_BYTES:  # Nothing is read of files that only look regular: one in /proc may wait or never end.
        raise PackageFormatError("is no zip archive: it has no end record", place)
    tail_at = max(0, size - _END_BYTES - _LONGEST_COMMENT - _LOCATOR_BYTES)
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_BYTES:
        raise PackageFormatError("is no zip archive: it has no end record", place)
    _, _, _, count, length, start, comment = struct.unpack("<4H2LH", tail[end + 4 : end + _END_BYTES])
    if len(tail) - end - _END_BYTES != comment:
        raise PackageFormatError("is no sound zip archive: it does not end where its end record says", place)
    stop = tail_at + end
    if tail[end - _LOCATOR_BYTES : end - _LOCATOR_BYTES + 4] == _END64_LOCATOR and end >= _LOCATOR_BYTES:
        count, length, start, stop = _end64(file, tail[end - _LOCATOR_BYTES : end], stop - _LOCATOR_BYTES, place)
    if start + length != stop:
        raise PackageFormatError("is no sound zip archive: there is something before or inside of it", place)
    if count > limits.files * 2 or length > limits.files * 2 * (_ENTRY_BYTES + limits.path_characters):
        raise PackageLimitError("files", limits.files, max(count, length // _ENTRY_BYTES), place)
    if count * _ENTRY_BYTES > length:
        raise PackageFormatError(f"is no sound zip archive: {count} entries in {length} bytes", place)
    return int(count)


def _end64(file: BinaryIO, locator: bytes, locator_at: int, place: str) -> tuple[int, int, int, int]:
    (at,) = struct.unpack("<Q", locator[8:16])
    record = b""
    if at == locator_at - _END64_BYTES:  # `zipfile` looks for it there, whatever the locator says.
        file.seek(at)
        record = file.read(_END64_BYTES)
    if record[:4] != _END64:
        raise PackageFormatError("is no sound zip archive: its zip64 record is missing", place)
    count, length, start = struct.unpack("<3Q", record[32:56])
    return count, length, start, at


def _entry_path(entry: zipfile.ZipInfo) -> str:
    """Give the name of an entry; Info-ZIP's `zip` writes UTF-8 without the flag that says so, `zipfile` reads CP437."""
    if entry.flag_bits & _UTF8 or entry.orig_filename.isascii():
        return entry.orig_filename
    try:
        return entry.orig_filename.encode("cp437").decode()
    except UnicodeError:
        return entry.orig_filename


def _check_entry(entry: zipfile.ZipInfo, place: str) -> None:
    where = f"{place}: {shown(entry.filename)}"
    if entry.orig_filename != entry.filename:
        raise PackageFormatError(f"{shown(entry.orig_filename)} is no relative path", place)
    if entry.flag_bits & _ENCRYPTED:
        raise PackageFormatError("is encrypted", where)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackageFormatError(f"expected stored or deflated, got compression method {entry.compress_type}", where)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        raise PackageFormatError("is a link or another special file", where, "put the file itself there")
    if entry.is_dir() and entry.file_size:
        raise PackageFormatError("is a folder with content", where)
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        raise PackageFormatError(f"stored {entry.file_size} bytes as {entry.compress_size}", where)


def _check_no_overlap(
    entries: Iterable[zipfile.ZipInfo], end: int, place: str, header_bytes: Callable[[zipfile.ZipInfo], int]
) -> None:
    """Refuse entries that share bytes: the way to petabytes in a small file."""
    free = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < free:
            raise PackageFormatError("shares its bytes with another entry", f"{place}: {shown(entry.filename)}")
        free = entry.header_offset + header_bytes(entry) + entry.compress_size
    if free > end:
        raise PackageFormatError("an entry reaches into the directory of the archive", place)
