"""A file elsewhere, and a local file object that reads as little of it as it can."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from hashlib import sha256
from threading import Event
from typing import TypeVar

from neuropod_core.errors import PackageIntegrityError, SourceError

__all__ = ["Interruption", "RangedFile", "RemoteFile", "moved", "patiently"]

_Result = TypeVar("_Result")

_FIRST_STEP_BYTES, _LONGEST_STEP_BYTES = 16 << 10, 8 << 20
_TRIES, _FIRST_PAUSE_S = 4, 0.1


class Interruption(Exception):  # noqa: N818 - no error yet: it may be tried again
    """The connection was lost, or the server is busy; what the caller does with it is its own affair."""


class RemoteFile(ABC):
    """One file elsewhere.

    Attributes
    ----------
    place
        What errors call it.
    size
        Its length in bytes; None where nobody says.
    validator
        A text that changes when the content does; empty where there is none.
    ranged
        Whether a part of it can be read.
    """

    place: str
    size: int | None
    validator: str
    ranged: bool = True

    @property
    def stamp(self) -> str:
        """Names the present state; empty where it cannot be told from another."""
        return sha256(f"{self.size} {self.validator}".encode()).hexdigest() if self.validator else ""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """Read exactly the bytes from `start` to before `stop`.

        Raises
        ------
        PackageIntegrityError
            If the file is not any more what it was when it was found.
        SourceError
            If it cannot be read.
        """

    @abstractmethod
    def stream(self, start: int) -> Iterator[bytes]:
        """Give what follows `start`, in pieces; raises `Interruption` where that breaks off."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raise `PackageIntegrityError` if it is known to be another file by now."""


def moved(place: str) -> PackageIntegrityError:
    """Make the error of a file that was replaced while it was read."""
    return PackageIntegrityError(place, "the file that was found at first", "another one by now", "try again")


def patiently(place: str, attempt: Callable[[], _Result]) -> _Result:
    """Try a short request a few times, with pauses that grow."""
    pause = _FIRST_PAUSE_S
    for left in reversed(range(_TRIES)):
        try:
            return attempt()
        except Interruption as error:
            if not left:
                raise SourceError(f"cannot be read: {error}", place, "try again later") from error
            Event().wait(pause)
            pause *= 2
    raise AssertionError  # The last try returns or raises.


class RangedFile(io.RawIOBase):
    """A remote file as a local one: what is read is kept, and what follows is read in growing steps."""

    def __init__(self, remote: RemoteFile, size: int) -> None:
        super().__init__()
        self._remote, self._size, self._position = remote, size, 0
        self._kept: list[tuple[int, bytes]] = []  # The end of the file, then what was read last.
        self._step = _FIRST_STEP_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the file")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._size - self._position if size is None or size < 0 else size
        stop = min(self._position + wanted, self._size)
        pieces = []
        while self._position < stop:
            pieces.append(self._piece(stop))
            self._position += len(pieces[-1])
        return b"".join(pieces)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # of what `read` gives
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _piece(self, stop: int) -> bytes:
        """Give some bytes from here on, of what is kept or of the next step."""
        for start, data in self._kept:
            if start <= self._position < start + len(data):
                return data[self._position - start : stop - start]
        self._fetch(stop)
        start, data = self._kept[-1]
        return data[self._position - start : stop - start]

    def _fetch(self, stop: int) -> None:
        follows = bool(self._kept) and self._position == self._kept[-1][0] + len(self._kept[-1][1])
        self._step = min(self._step * 2, _LONGEST_STEP_BYTES) if follows else _FIRST_STEP_BYTES
        end = min(max(stop, self._position + self._step), self._position + _LONGEST_STEP_BYTES, self._size)
        following = min((start for start, _ in self._kept if start > self._position), default=end)
        data = self._remote.read(self._position, min(end, following))
        self._kept = [*self._kept[:1], (self._position, data)]
