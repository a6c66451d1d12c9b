"""Folders for work under way: removed in the end, or, where their process was killed, by the next one of their kind."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from neuropod_core._cache import lock_file, remove_tree

_BIRTH_S = 60.0
"""A folder whose name says that it is being made may be so old and not yet have the lock of its maker."""


class Workplace:
    """A folder in `beside`, named after what it is `for_`; nobody else may look into it.

    Attributes
    ----------
    folder
        The folder, empty at first.

    Raises
    ------
    OSError
        If it cannot be made.
    """

    def __init__(self, beside: Path, for_: str) -> None:
        _remove_abandoned(beside, for_)
        token = os.urandom(8).hex()
        self.folder, self._descriptor = beside / f".neuropod-{for_}-{token}", -1
        made = beside / f".neuropod-{for_}-{token}.new"
        made.mkdir(mode=0o700)
        try:
            self._descriptor = _locked(made)
            made.rename(self.folder)  # Whoever sees this name, and gets the lock, knows that its owner has ended.
        except BaseException:
            self.forget()
            remove_tree(made)
            raise

    def close(self) -> None:
        """Remove it."""
        self.forget()
        remove_tree(self.folder)

    def forget(self) -> None:
        """Let go of it, and leave it to others."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _locked(folder: Path) -> int:
    """Open a folder and lock it; -1 on Windows, which opens none, and where nothing is taken for abandoned."""
    if os.name == "nt":
        return -1
    descriptor = os.open(folder, os.O_RDONLY)
    lock_file(descriptor)
    return descriptor


def _remove_abandoned(beside: Path, for_: str) -> None:
    name = re.compile(rf"\.neuropod-{for_}-[0-9a-f]{{16}}(\.new)?")
    for folder in beside.glob(f".neuropod-{for_}-*"):
        if found := name.fullmatch(folder.name):
            with suppress(OSError):
                _remove_if_abandoned(folder, _BIRTH_S if found[1] else 0)


def _remove_if_abandoned(folder: Path, least_age_s: float) -> None:
    facts = folder.lstat()
    is_ours = os.name != "nt" and facts.st_uid == os.getuid()
    if folder.is_symlink() or not folder.is_dir() or not is_ours or time.time() - facts.st_mtime < least_age_s:
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if lock_file(descriptor):
            remove_tree(folder)
    finally:
        os.close(descriptor)
