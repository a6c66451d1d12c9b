"""Libraries of custom operators: each content once per process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

import torch

from neuropod_core.errors import ModelLoadError
from neuropod_torch._errors import reason

__all__ = ["load_custom_ops"]

_lock = threading.Lock()
_loaded: set[str] = set()


def load_custom_ops(libraries: Iterable[Path]) -> None:
    """Load libraries that this process does not have yet, recognised by content wherever they lie.

    Raises
    ------
    ModelLoadError
        If one cannot be loaded, or registers what is registered already.
    """
    with _lock:
        for library in libraries:
            _load(library)


def _load(library: Path) -> None:
    try:
        content = hashlib.sha256(library.read_bytes()).hexdigest()
        if content not in _loaded:
            torch.ops.load_library(str(library))
    except Exception as error:
        what = f"torch {torch.__version__} cannot load the custom operators: {reason(error)}"
        raise ModelLoadError(what, library.name, _remedy(error)) from error
    _loaded.add(content)


def _remedy(error: Exception) -> str:
    if any(sign in str(error) for sign in ("already registered", "Only a single", "multiple times", "duplicate")):
        return "another library has registered the same operators: run the model in a process of its own"
    return f"build the library for torch {torch.__version__}"
