"""Pieces of anonymous shared memory: sealed against shrinking and growing, their pages reserved.

The parent makes all of them and hands them out: a worker that dies takes nothing with it and leaves nothing behind, and
nothing that a worker says can move a boundary. Nothing has a name: a segment is one ``memfd``.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from neuropod_core.errors import SharedMemoryError
from neuropod_core.placement.worker._memfd import check_sealed, sealed_file
from neuropod_core.placement.worker._open_files import REMEDY, is_at_limit

PAGE_BYTES = 4096


class SegmentArray(np.ndarray):
    """The bytes of a whole segment. NumPy stops at a class of its own when it looks for the owner of a view."""


class Segment:
    """One piece of shared memory, mapped."""

    def __init__(self, number: int, descriptor: int, nbytes: int) -> None:
        self.number, self.nbytes = number, nbytes
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self.memory = mmap.mmap(descriptor, nbytes, flags=flags)
        self.bytes: Any = np.frombuffer(self.memory, np.uint8).view(SegmentArray)
        self.address: int = self.bytes.__array_interface__["data"][0]
        self.descriptor = descriptor  # From here on it is this object's to close.

    def close(self) -> None:
        """Forget the descriptor; the memory goes when no array lies in it."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # It may be half made.
            self.close()


def create_segment(number: int, nbytes: int) -> Segment:
    """Make a segment, its pages reserved: writing to it later cannot fail for want of memory.

    Raises
    ------
    SharedMemoryError
        If there is not that much memory.
    """
    nbytes, descriptor = rounded(nbytes, PAGE_BYTES), -1
    try:
        descriptor = sealed_file(nbytes)
        return Segment(number, descriptor, nbytes)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        what = f"no shared memory of {nbytes} bytes can be had: {error.strerror or error}"
        remedy = REMEDY if is_at_limit(error) else "free memory, or pass smaller tensors"
        raise SharedMemoryError(what, remedy=remedy) from error


def adopt_segment(number: int, descriptor: int, nbytes: int) -> Segment:
    """Map a segment that another process made, once it is known that nobody can take it away.

    Raises
    ------
    WorkerProtocolError
        If it lacks a seal or has another size.
    """
    try:
        check_sealed(descriptor, nbytes)
        return Segment(number, descriptor, nbytes)
    except BaseException:
        os.close(descriptor)
        raise


def larger_limit(nbytes: int) -> str:
    """Say how to have room for so many bytes; a limit beyond the memory of this machine would be none."""
    total = _machine_bytes()
    if nbytes > total > 0:
        return f"pass smaller tensors: this machine has {total} bytes of memory"
    return f"pass Worker(shared_memory_bytes={rounded(nbytes, 1 << 20)}) or smaller tensors"


@cache
def _machine_bytes() -> int:
    """Give the memory of this machine; 0 where the system does not tell."""
    with suppress(ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def rounded(nbytes: int, to: int) -> int:
    """Give the next multiple of `to`, at least one."""
    return max(-(-nbytes // to), 1) * to
