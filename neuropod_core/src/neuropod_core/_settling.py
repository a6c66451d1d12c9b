"""What a worker does first, while it has one thread and has imported the standard library only."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def settle(first: Mapping[str, Any]) -> None:
    """Set up the process: it ends with its parent, leaves Ctrl-C to it, keeps within its limits, and in its cage."""
    _die_with_parent(int(first["parent"]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # else: AttributeError
    if first.get("debug"):
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    if first.get("cpus"):
        os.sched_setaffinity(0, first["cpus"])
    if first.get("nice"):
        os.nice(first["nice"])
    if first.get("memory_limit_bytes"):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (first["memory_limit_bytes"],) * 2)
    if first.get("cage"):
        _enter_cage(first["cage"], first["lent"], finds_site=not first["path"])


def _enter_cage(cage: Mapping[str, Any], lent: list[str], *, finds_site: bool) -> None:
    from neuropod_core import sandbox

    readable = sandbox.readable_for_python(*map(Path, (*cage["readable"], *lent)))
    sandbox.enforce(Path(cage["scratch"]), readable=readable)
    os.chdir(cage["scratch"])
    if finds_site:  # What an environment runs when Python starts, it runs in the cage.
        import site

        site.main()


def _die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends: it lives as long as the model does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if parent != os.getppid():
            os._exit(0)
