"""A virtual environment of wheels that lie on this machine, made by uv where it is installed, else by venv and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuropod_core._cache import remove_tree
from neuropod_core.environments._guard import check_untouched, check_wheels, fingerprints
from neuropod_core.environments._lock import Lock
from neuropod_core.environments._pythons import Python, python_of, uv
from neuropod_core.environments._store import Place
from neuropod_core.environments._wheels import Plan, Wheels
from neuropod_core.errors import EnvironmentBuildError, InterpreterError

__all__ = ["build", "worded"]

_SHOWN_LINES = 3

# Runs in the environment while nothing is installed there, with the folder of a pip for its ``site-packages``.
_PIP = """
import runpy, sys
folder = sys.argv.pop(1)
sys.path[:] = [place for place in sys.path if not place.endswith("site-packages")] + [folder]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def build(place: Place, lock: Lock, plan: Plan, wheels: Wheels, *, name: str, held: int) -> dict[str, Any]:
    """Build an environment at its place, and give what is written down about it.

    Parameters
    ----------
    place
        Where; what is there already is removed.
    lock, plan, wheels
        What it is made of.
    name
        The model's name, to tell people by.
    held
        The descriptor of the lock on the place: programs that are run inherit it.

    Raises
    ------
    EnvironmentBuildError
        If it cannot be built.
    OSError
        If it cannot be written; in either case nothing is left behind.
    """
    began = time.monotonic()
    with place.workplace():
        files = wheels.obtain(plan)
        check_wheels(files, wheels.at)
        by = _installed(place, plan.python, files, wheels, held)
        record = {
            "name": name,
            "lock": lock.digest,
            "base": str(plan.python.executable.resolve()),
            "python": python_of(place.venv).facts(),
            "wheels": [wheel.name for _, wheel in plan.wheels],
            "by": by,
            "seconds": round(time.monotonic() - began, 3),
            "bytes": _size(place.folder),
            "created": time.time(),
        }
        place.touch()
        place.complete(record)
    return record


@contextmanager
def worded(at: str) -> Iterator[None]:
    """Word what the disk refuses.

    Raises
    ------
    EnvironmentBuildError
        For an OSError in the block.
    """
    try:
        yield
    except OSError as error:
        what = f"it cannot be written: {error}"
        raise EnvironmentBuildError(
            "install", what, at, "make room, or choose another folder; the cache is where NEUROPOD_CACHE_DIR says"
        ) from error


def _installed(place: Place, python: Python, files: Sequence[Path], wheels: Wheels, held: int) -> str:
    """Make the environment and install into it; its own interpreter has not run since when this ends."""
    program = uv()
    pip = None if program is not None else _pip_of(python)
    with_pip = program is None and pip is None  # The environment then keeps its own.
    make = [str(python.executable), "-I", "-m", "venv", *(() if with_pip else ("--without-pip",)), str(place.venv)]
    wheels.progress(f"making a virtual environment of Python {python}")
    _run(make, "venv", held)
    if not files:
        return "venv"
    by, before = "pip" if program is None else "uv", _own_files(place.venv)
    wheels.progress(f"installing {len(files)} wheels by {by}")
    if program is not None:
        _install_by_uv(program, _inside(place), place.folder / "uv", files, held)
    else:
        with _pip_apart(pip, place) as folder:
            _install_by_pip(folder, _inside(place), files, held)
    check_untouched(place.venv, before, wheels.at)
    _compile(python, place.venv, held)
    return by


def _own_files(venv: Path) -> dict[str, str]:
    """Give what no wheel may change: all but the programs of pip, which a lock may bring in another release."""
    return {path: print_ for path, print_ in fingerprints(venv).items() if not path.startswith("bin/pip")}


def _pip_of(python: Python) -> Path | None:
    """Give the folder with the pip of this interpreter, or of what its environment was made from."""
    if (folder := _folder_of_pip(python)) is not None:
        return folder
    try:
        base = python_of(python.base_prefix)
    except InterpreterError:
        return None
    return _folder_of_pip(base) if base.version == python.version else None


def _folder_of_pip(python: Python) -> Path | None:
    return next((Path(folder) for folder in python.path if Path(folder, "pip", "__main__.py").is_file()), None)


@contextmanager
def _pip_apart(pip: Path | None, place: Place) -> Iterator[Path]:
    """Give a folder with a pip that no wheel can write to: a copy of the environment's, where there is no other."""
    if pip is not None:
        yield pip
        return
    apart = place.folder / "pip"
    try:
        shutil.copytree(next(place.venv.glob("[Ll]ib/**/site-packages/pip")), apart / "pip")
        yield apart
    finally:
        remove_tree(apart)


def _install_by_pip(pip: Path, inside: Path, files: Sequence[Path], held: int) -> None:
    """Let a pip from outside install; what arrives in the environment meanwhile is not on its path."""
    command = [str(inside), "-I", "-c", _PIP, str(pip), "install", "--quiet", "--no-input", "--isolated"]
    quietly = ["--disable-pip-version-check", "--no-warn-script-location", "--no-compile"]
    _run([*command, *quietly, "--no-deps", "--no-index", "--no-cache-dir", *map(str, files)], "pip", held)


def _install_by_uv(program: str, inside: Path, cache: Path, files: Sequence[Path], held: int) -> None:
    """Let uv link from a cache of its own beside the environment: quick, and nothing lies there twice."""
    command = [program, "pip", "install", "--python", str(inside), "--cache-dir", str(cache), "--no-config"]
    try:
        _run([*command, "--no-deps", "--no-index", "--offline", *map(str, files)], "uv", held)
    finally:
        remove_tree(cache)


def _compile(python: Python, venv: Path, held: int) -> None:
    """Compile to bytecode what was installed, as pip does; by the Python outside, so that no .pth file runs."""
    command = [str(python.executable), "-I", "-S", "-m", "compileall", "-q", "-j", "0", str(venv)]
    subprocess.run(command, check=False, capture_output=True, env=_environment(), pass_fds=_passed(held))  # noqa: S603 - as in _run; files that do not compile are not for this Python


def _inside(place: Place) -> Path:
    windows = place.venv / "Scripts" / "python.exe"
    return windows if windows.exists() else place.venv / "bin" / "python"


def _run(command: Sequence[str], by: str, held: int) -> None:
    ran = subprocess.run(  # noqa: S603 - no shell; programs that are installed, and wheels whose hashes were compared
        command,
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=_environment(),
        pass_fds=_passed(held),
    )
    if ran.returncode:
        lines = (ran.stderr.strip() or ran.stdout.strip()).splitlines()[-_SHOWN_LINES:]
        what = f"{by} ended with exit code {ran.returncode}: {' '.join(lines) or 'it said nothing'}"
        raise EnvironmentBuildError("install", what, remedy="as it says; or report it with the lock")


def _passed(held: int) -> tuple[int, ...]:
    return (held,) if os.name == "posix" else ()


def _environment() -> Mapping[str, str]:
    """Give the variables for installers: what configures them elsewhere, or adds to what is imported, is left out."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON", "VIRTUAL_"))
    }
    return {**kept, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "PIP_CONFIG_FILE": os.devnull}


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
