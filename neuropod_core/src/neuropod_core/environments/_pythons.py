"""Interpreters: what one is, and which there are on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from neuropod_core.errors import InterpreterError, shown

__all__ = ["Python", "python_for", "python_of", "run_in", "uv"]

LEAST = "3.10"

_MOST_SECONDS = 60
_LAST_MINOR = 30

# Runs in any Python 3 and looks at names of folders only. It runs without `site`, which would run the .pth files of the
# environment: so it finds out itself what `site` would, as PEP 405 and the module's documentation have it.
_PROBE = """
import json, os, site, sys
inside = os.path.dirname(os.path.abspath(sys.executable))
prefix, prefixes = sys.prefix, [sys.prefix]
for folder in (inside, os.path.dirname(inside)):
    if os.path.isfile(os.path.join(folder, "pyvenv.cfg")):
        with open(os.path.join(folder, "pyvenv.cfg"), encoding="utf-8") as file:
            lines = dict(line.lower().replace(" ", "").strip().partition("=")[::2] for line in file)
        prefix = folder
        prefixes = [folder] + [sys.base_prefix] * (lines.get("include-system-site-packages") == "true")
        break
path = sys.path + [folder for folder in site.getsitepackages(prefixes) if os.path.isdir(folder)]
distributions = {}
for folder in reversed(path):
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        stem, dot, suffix = name.rpartition(".")
        if suffix in ("dist-info", "egg-info") and "-" in stem:
            distributions[stem.split("-")[0]] = stem.split("-")[1]
print(json.dumps({
    "executable": sys.executable,
    "version": "%d.%d.%d" % sys.version_info[:3],
    "implementation": sys.implementation.name,
    "prefix": prefix,
    "base_prefix": sys.base_prefix,
    "path": path,
    "distributions": distributions,
}))
"""


@dataclass(frozen=True)
class Python:
    """An interpreter and what is installed for it, as it said itself when it was run.

    Attributes
    ----------
    executable
        Absolute, links not followed: the link in a virtual environment is what leads to it.
    version
        ``"3.12.1"``.
    implementation
        ``"cpython"``.
    prefix, base_prefix
        The environment's folder, and that of the installation that it was made from.
    path
        Its ``sys.path`` when nothing is added, neither by variables nor by ``.pth`` files.
    distributions
        Installed distributions by normalized name, and their versions; the first on its path counts.
    """

    executable: Path
    version: str
    implementation: str
    prefix: Path
    base_prefix: Path
    path: tuple[str, ...] = ()
    distributions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        return f"{self.version} at {self.executable}"

    def has(self, distribution: str) -> bool:
        """Whether a distribution is installed for it."""
        return canonicalize_name(distribution) in self.distributions

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Python:
        """Make one of what an interpreter printed, or of what `facts` gave."""
        installed: dict[str, str] = {
            canonicalize_name(name): version for name, version in facts["distributions"].items()
        }
        return cls(
            executable=Path(facts["executable"]),
            version=facts["version"],
            implementation=facts["implementation"],
            prefix=Path(facts["prefix"]),
            base_prefix=Path(facts["base_prefix"]),
            path=tuple(facts["path"]),
            distributions=MappingProxyType(installed),
        )

    def facts(self) -> dict[str, object]:
        """Give it as JSON can hold it."""
        return {
            "executable": str(self.executable),
            "version": self.version,
            "implementation": self.implementation,
            "prefix": str(self.prefix),
            "base_prefix": str(self.base_prefix),
            "path": list(self.path),
            "distributions": dict(self.distributions),
        }


_known: dict[tuple[object, ...], Python] = {}


def python_of(path: str | os.PathLike[str]) -> Python:
    """Run an interpreter once, and give what it is; what did not change since is not run again in this process.

    Nothing that is installed for it runs: neither ``.pth`` files nor ``sitecustomize``.

    Parameters
    ----------
    path
        An interpreter, or the folder of a virtual environment (or of an installation).

    Raises
    ------
    InterpreterError
        If there is none, it does not run, or it is older than Python 3.10.
    """
    executable = _executable_in(Path(path))
    if (known := _remembered(executable)) is not None:
        return known
    try:
        python = Python.from_facts(json.loads(run_in(executable, _PROBE)))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise InterpreterError(str(path), (f"it does not run: {_reason(error)}",), remedy="name another") from error
    if not _fits(python.version, f">={LEAST}"):
        raise InterpreterError(f"Python {LEAST} or later", (str(python),), remedy="name a newer one")
    _known[_look(executable, python)] = python
    return python


def python_for(requires: str, refuse: Callable[[Python], str] = lambda _: "", at: str = "") -> Python:
    """Find the first interpreter on this machine whose version is in a range, and that `refuse` has nothing against.

    The current one comes first, then ``pythonX.Y`` on ``PATH``, the versions of pyenv, and what uv finds; newer ones
    before older ones.

    Parameters
    ----------
    requires
        As ``requires-python`` of a project: ``">=3.11,<3.13"``; empty for any.
    refuse
        Says why an interpreter will not do; empty if it will.
    at
        Who asks for it, for the error.

    Raises
    ------
    InterpreterError
        If there is none; it lists those that were looked at.
    """
    asked = requires or f">={LEAST}"
    refused = {}
    for python in _working(_candidates(asked)):
        reason = refuse(python) if _fits(python.version, asked) else "not in the range"
        if not reason:
            return python
        refused[python.executable] = f"{python}: {reason}"
    for python in _working(_candidates("")):
        refused.setdefault(python.executable, f"{python}: not in the range")
    remedy = "install one (neuropod fetches none), or name one by its path"
    raise InterpreterError(asked, tuple(refused.values()), at, remedy)


def run_in(executable: Path, program: str, *arguments: str) -> str:
    """Run a program in an interpreter that neither variables nor the working directory nor what is installed influence.

    Raises
    ------
    OSError, subprocess.SubprocessError
        If it does not run to its end.
    """
    ran = subprocess.run(  # noqa: S603 - no shell; the interpreter is one that the user named or has installed
        [executable, "-I", "-S", "-c", program, *arguments],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=_MOST_SECONDS,
    )
    return ran.stdout


def uv() -> str | None:
    """Give the path of the program ``uv``, where it is installed."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")


# -- details ----------------------------------------------------------------------------------------------------------


def _executable_in(path: Path) -> Path:
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would leave the virtual environment
    if path.is_dir():
        places = [path / place for place in ("bin/python", "bin/python3", "Scripts/python.exe", "python.exe")]
        path = next((place for place in places if place.exists()), places[0])
    if not path.is_file():
        what = "there is no such file" if not path.is_symlink() else "the link leads nowhere"
        raise InterpreterError(str(path), (what,), remedy="name an interpreter or a virtual environment")
    return path


def _look(executable: Path, python: Python) -> tuple[object, ...]:
    """Tell an interpreter from what it becomes when something is installed for it."""
    folders = [Path(folder) for folder in python.path if folder.endswith(("site-packages", "dist-packages"))]
    places = [executable, python.prefix / "pyvenv.cfg", *folders]
    return (executable, *(place.stat().st_mtime_ns if place.exists() else 0 for place in places))


def _remembered(executable: Path) -> Python | None:
    for look, python in list(_known.items()):
        if look[0] == executable and look == _look(executable, python):
            return python
    return None


def _fits(version: str, requires: str) -> bool:
    return SpecifierSet(requires).contains(version, prereleases=True)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or "").strip().splitlines()
        return f"exit code {error.returncode}, {shown(lines[-1] if lines else '')}"
    return shown(str(error))


def _candidates(requires: str) -> Iterator[Path]:
    yield Path(sys.executable)
    names = [f"python3.{minor}" for minor in range(_LAST_MINOR, 9, -1) if _may_fit(f"3.{minor}", requires)]
    yield from (Path(found) for name in names if (found := shutil.which(name)))
    yield from _of_pyenv(requires)
    if (last := _of_uv(requires)) is not None:
        yield last


def _working(paths: Iterable[Path]) -> Iterator[Python]:
    """Give the interpreters that run: not a shim of a version that is not chosen, nor an old one; nobody named it."""
    for path in paths:
        with suppress(InterpreterError):
            yield python_of(path)


def _may_fit(minor: str, requires: str) -> bool:
    """Whether some patch release of a minor one may be in a range."""
    return any(_fits(f"{minor}.{patch}", requires) for patch in range(40))


def _of_pyenv(requires: str) -> list[Path]:
    root = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    released = [path for path in root.glob("versions/3.*") if re.fullmatch(r"3\.\d+\.\d+", path.name)]
    fitting = [path for path in released if _fits(path.name, requires)]
    newest_first = sorted(fitting, key=lambda path: tuple(map(int, path.name.split("."))), reverse=True)
    return [path / "bin" / "python" for path in newest_first if (path / "bin" / "python").exists()]


def _of_uv(requires: str) -> Path | None:
    program = uv()
    if program is None or "===" in requires:  # What follows that may be a path.
        return None
    try:
        found = subprocess.run(  # noqa: S603 - no shell; uv as it is installed
            [program, "python", "find", "--no-project", "--no-config", "--system", requires],
            check=True,
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            cwd=os.sep,  # It looks for environments where it stands, and above.
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(found.stdout.strip())
