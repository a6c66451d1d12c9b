"""The command ``neuropod``: see what a package is, run it, verify it, list the plugins.

Its libraries come with the extra ``[cli]``; nothing else in neuropod imports this package.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from typing import NoReturn

__all__ = ["main"]

_LIBRARIES = ("click", "rich")
_USAGE, _NOTHING_TO_RUN_WITH, _INTERRUPTED = 2, 4, 130


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        os.getcwd()  # noqa: PTH109 - asked, not used
    except OSError:
        _exit_saying("the current folder was removed; change to another one", "FileNotFoundError", _USAGE)
    missing = [library for library in _LIBRARIES if find_spec(library) is None]
    if missing:
        _exit_without(missing)
    try:
        from neuropod_core.cli._group import neuropod
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    neuropod.main(prog_name="neuropod")


def _exit_without(missing: list[str]) -> NoReturn:
    message = f"the command line needs {' and '.join(missing)}; run: pip install 'neuropod-core[cli]'"
    _exit_saying(message, "ModuleNotFoundError", _NOTHING_TO_RUN_WITH)


def _exit_saying(message: str, kind: str, code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": {"type": kind, "message": message}}) + "\n")
    sys.exit(code)
