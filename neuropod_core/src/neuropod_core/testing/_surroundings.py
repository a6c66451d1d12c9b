"""What a model shares with everything else in its process, and must leave as it is."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_PROCESS = Path("/proc/self")

_STATE: dict[str, Callable[[], Any]] = {
    "os.environ": lambda: dict(os.environ),
    "the working directory": os.getcwd,
    "sys.path": lambda: list(sys.path),
    "sys.meta_path": lambda: list(sys.meta_path),
    "sys.stdout": lambda: (sys.stdin, sys.stdout, sys.stderr),
    "sys.excepthook": lambda: (sys.excepthook, threading.excepthook, sys.unraisablehook),
    "the limits of the interpreter": lambda: (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled()),
    "signal handlers": lambda: [signal.getsignal(number) for number in sorted(signal.valid_signals())],
    "the state of `random`": random.getstate,
    "the state of `numpy.random`": lambda: str(np.random.get_state()),  # noqa: NPY002 - it is the one that is shared
    "numpy.geterr": np.geterr,
    "numpy.get_printoptions": np.get_printoptions,
    "how subnormal numbers are computed": lambda: float(np.finfo(np.float32).smallest_subnormal * np.float32(1)),
    "warnings.filters": lambda: list(warnings.filters),
    "the root logger": lambda: (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
    "locale": lambda: locale.setlocale(locale.LC_ALL),
}


@contextmanager
def unusual() -> Iterator[None]:
    """Make the state of the process one that nobody sets, so that setting anything shows; put it back at the end."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    random.random()  # noqa: S311 - another state than any seed gives
    np.random.random()  # noqa: NPY002 - the one that is shared
    with warnings.catch_warnings(), np.errstate(all="print"), np.printoptions(precision=3):
        warnings.filterwarnings("error", category=_NoWarning)
        try:
            for number in usual:
                signal.signal(number, _interrupted)
            yield
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)


def _interrupted(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


class _NoWarning(Warning):
    """Stands in a filter of its own."""


def surroundings() -> dict[str, Any]:
    """Describe what the whole process shares."""
    return {name: state() for name, state in _STATE.items()}


def changed(before: dict[str, Any]) -> list[str]:
    """Name what is not any more as it was."""
    return [name for name, state in surroundings().items() if state != before[name]]


def held() -> dict[str, int]:
    """Count what the process holds: threads, open files, child processes, temporary files."""
    gc.collect()
    counts = {"threads": threading.active_count(), "temporary files": _count(Path(tempfile.gettempdir()))}
    if _PROCESS.is_dir():
        counts["threads"] = _count(_PROCESS / "task")
        counts["open files"] = _count(_PROCESS / "fd")
        counts["child processes"] = sum(len(_words(task / "children")) for task in (_PROCESS / "task").iterdir())
    return counts


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _words(file: Path) -> list[str]:
    try:
        return file.read_text("ascii").split()
    except OSError:  # The thread has ended, or the kernel does not tell.
        return []


def resident_bytes() -> int:
    """Count the bytes of memory that the process has in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - as quick as it can be
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
