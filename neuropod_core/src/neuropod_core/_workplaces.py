"""Where packages come into being: a hidden folder beside the target, so that moving into place is one step."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuropod_core._cache import lock_file, remove_tree

_PREFIX = ".neuropod-"
_BIRTH_S = 60.0
"""A folder may be so old and not yet have the lock of its maker."""


@contextmanager
def workplace(beside: Path) -> Iterator[Path]:
    """Make a folder in `beside`, and remove it in the end, and those that killed processes left there."""
    _remove_abandoned(beside)
    work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
    descriptor = -1
    try:
        with suppress(OSError):  # Windows opens no folders; without a lock, nobody takes it for abandoned.
            descriptor = os.open(work, os.O_RDONLY)
            lock_file(descriptor)
        yield work
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        remove_tree(work)


def _remove_abandoned(beside: Path) -> None:
    for folder in beside.glob(f"{_PREFIX}????????"):
        with suppress(OSError):
            if folder.is_symlink() or not folder.is_dir() or time.time() - folder.stat().st_mtime < _BIRTH_S:
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                if lock_file(descriptor):
                    remove_tree(folder)
            finally:
                os.close(descriptor)
