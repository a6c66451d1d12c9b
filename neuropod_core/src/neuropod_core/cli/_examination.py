"""Plugins examined from outside: each in a process of its own, with a limit of time.

A plugin can hang, crash, print, end its process or change what belongs to all of it. None of that reaches the command
that asks, and all of it is reported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuropod_core.cli._errors import document_of
from neuropod_core.cli._text import signal_name
from neuropod_core.errors import PluginError
from neuropod_core.plugins import BLOCKED_VARIABLE, Plugin

__all__ = ["BACKEND", "LIMIT", "OBSERVER", "examined", "examined_all"]

BACKEND, OBSERVER = "backend", "observer"

LIMIT = 20.0
"""Seconds that a plugin has to be imported and to describe itself."""

_START = 60.0  # Seconds for an interpreter to start and to import the core, on a machine with much else to do.
_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]  # Nobody asked for what lies in the current folder.
import json
sys.path[:] = json.loads(sys.argv[2])
from neuropod_core.cli._probe import main
main()
"""
_MOST_PRINTED = 2000


def examined_all(plugins: Iterable[Plugin], *, limit: float = LIMIT, kind: str = BACKEND) -> list[dict[str, Any]]:
    """Examine several plugins side by side, as `examined` does; the answers are in their order."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda plugin: examined(plugin, limit=limit, kind=kind), plugins))


def examined(plugin: Plugin, *, limit: float = LIMIT, kind: str = BACKEND) -> dict[str, Any]:
    """Import a plugin in a child process, and tell what came of it.

    Returns
    -------
    Under ``error`` what is wrong, or None; ``seconds`` that it took; ``changed`` names what the plugin changed of its
    process; ``printed`` is what it wrote. For a backend that can be had: ``contract``, the fields of its descriptor,
    ``framework_version``, ``unfit`` (what is wrong with the framework, or None), ``eager``, the modules of the
    framework that were imported already, and ``lost``, the packagers whose module is not there.
    """
    with tempfile.TemporaryDirectory(prefix="neuropod-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        code = _run(folder, plugin, limit, kind)
        try:
            answer: dict[str, Any] = json.loads((folder / "answer").read_text("utf-8"))
        except (OSError, ValueError):
            answer = {"error": _without_answer(plugin, folder, code, limit), "seconds": None, "changed": []}
        return answer | {"printed": _start_of(folder / "printed")}


def _run(folder: Path, plugin: Plugin, limit: float, kind: str) -> int | None:
    """Run the child; give its exit code, or None if it had to be killed."""
    order = {"folder": str(folder), "plugin": asdict(plugin), "limit": limit, "kind": kind}
    command = [sys.executable, "-c", _BOOT, json.dumps(order), json.dumps(sys.path)]
    with (folder / "printed").open("wb") as printed:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": printed, "stderr": printed}
        child = subprocess.Popen(command, start_new_session=True, **streams)  # noqa: S603 - this interpreter
        try:
            return child.wait(limit + _START)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what the plugin may have started, too."""
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _without_answer(plugin: Plugin, folder: Path, code: int | None, limit: float) -> dict[str, object]:
    doing, remedy = f"importing {plugin.target}", f"block it by {BLOCKED_VARIABLE}={plugin.distribution}"
    place = _place((folder / "hung").read_text("utf-8", "replace") if (folder / "hung").exists() else "")
    if code is None or place:
        reason = f"{doing} did not end within {limit:g} s{place}"
    elif code < 0:
        reason = f"{doing} crashed the process ({signal_name(-code)})"
    else:
        reason = f"{doing} ended the process with exit code {code}"
    return document_of(PluginError(str(plugin), reason, f"{remedy}, and tell its author"))


def _place(traceback: str) -> str:
    """Find the innermost line of a plugin's own in what `faulthandler` wrote: frames of the library tell less."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip().startswith("File ")]
    library = os.path.dirname(os.__file__)  # noqa: PTH120 - a text to compare
    own = [line for line in lines if not line.startswith((f'File "{library}{os.sep}', 'File "<frozen'))]
    return f", it was at {(own or lines)[0].removeprefix('File ')}" if lines else ""


def _start_of(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_MOST_PRINTED).decode("utf-8", "replace").strip()
