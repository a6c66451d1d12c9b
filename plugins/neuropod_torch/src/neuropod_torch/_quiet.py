"""Calls of torch without its announcements of deprecation, which tell users nothing that they could act on."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_jit", "quiet_torch"]

_lock = threading.RLock()  # The filters of `warnings` belong to the whole process.


@contextmanager
def quiet_jit() -> Iterator[None]:
    """Drop ``DeprecationWarning`` about ``torch.jit`` itself, and nothing else, while the block runs."""
    with _lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Drop what torch warns itself of while it exports, compiles and opens programs: its own use of old names."""
    with quiet_jit():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
