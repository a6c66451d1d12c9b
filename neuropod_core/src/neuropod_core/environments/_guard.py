"""The interpreter of an environment is nobody's but its maker's: no wheel may replace it, or lead it elsewhere.

How CPython starts is decided by files beside it, before any of its options counts: its name in ``bin``, ``pyvenv.cfg``,
``<executable>._pth``, the standard library. The program of a cage runs in it before the cage is closed. So a wheel that
writes such a file is refused twice: by what its archive lists, before it is installed, and by what lies in the
environment, before its interpreter is run.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from neuropod_core._cache import digest_of
from neuropod_core.errors import EnvironmentBuildError, shown

__all__ = ["check_untouched", "check_wheels", "fingerprints"]

_REMEDY = "do not use it: no honest wheel does this; ask where the package comes from"
_DECIDES = "which decides how the environment's Python starts"
_SITE = "site-packages"
_MOST_BYTES = 1 << 20  # Of a list of entry points.
_LONGEST_NAME = 1000
_FREE_BYTES, _MOST_TIMES = 1 << 30, 100  # A wheel may unpack to so much, and so many times what it takes.

# In bin and at the top of an environment: an interpreter's names, and what it reads before it starts.
_OF_START = re.compile(r"pythonw?[\d.]*[td]*(\.exe|\.app|\.dll|\.zip)?|.*\._pth|pyvenv\.cfg|pybuilddir\.txt")
_OF_LIBRARY = re.compile(
    r"(lib)?python[\d.]*[td]*(\..*)?"
)  # In lib and lib64: standard libraries, and the library of an interpreter.
_LIBRARIES = ("lib", "lib64")
_PROGRAMS = ("bin", "scripts")


def check_wheels(files: Iterable[Path], at: str = "") -> None:
    """Look through what wheels would write, before they are installed; a file that is no wheel is the installer's.

    Raises
    ------
    EnvironmentBuildError
        If one would write what belongs to an interpreter, or outside of the environment; `reason` is ``contents``.
    """
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                bad = next(_intrusions(archive), None)
        except (OSError, ValueError, zipfile.BadZipFile):
            continue  # The installer says what is wrong with it.
        if bad is not None:
            what = f"{file.name} would write {shown(bad[0])}, {bad[1]}"
            raise EnvironmentBuildError("contents", what, at, _REMEDY)


def fingerprints(venv: Path) -> dict[str, str]:
    """Give what lies in an environment outside of ``site-packages``, by path: to compare it later."""
    return {path.relative_to(venv).as_posix(): _fingerprint(path) for path in _outside(venv)}


def check_untouched(venv: Path, before: dict[str, str], at: str = "") -> None:
    """Hold an environment against what it was when it was made; nothing in it is run.

    Raises
    ------
    EnvironmentBuildError
        If a file that was there is another or gone, or one is there that an interpreter would start by; `reason` is
        ``contents``, and the file and the wheel that brought it are named.
    """
    now = {path.relative_to(venv).as_posix(): path for path in _outside(venv)}
    changed = [path for path, print_ in before.items() if path not in now or _fingerprint(now[path]) != print_]
    brought = [path for path in now if path not in before and _intrudes(path.split("/"))]
    suspects = sorted([*changed, *brought])
    if suspects:
        listed = _recorded(venv)
        path = next((path for path in suspects if path.casefold() in listed), suspects[0])
        who = (
            f"the wheel of {listed[path.casefold()]}" if path.casefold() in listed else "a wheel (no RECORD says which)"
        )
        did = "replaced" if path in before else "brought"
        raise EnvironmentBuildError("contents", f"{who} {did} {shown(path)}, {_DECIDES}", at, _REMEDY)


# -- details ----------------------------------------------------------------------------------------------------------


def _intrusions(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Give the files of a wheel that would lie where they must not, and what is wrong with that."""
    lists = []
    for name in archive.namelist():
        parts = [part for part in name.replace("\\", "/").casefold().split("/") if part not in ("", ".")]
        if name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0]):
            yield name, "which is outside of the environment"
        elif len(name) > _LONGEST_NAME:
            yield f"{name[:100]}...", "which is too long for a path"
        elif len(parts) > 1 and parts[0].endswith(".data") and _intrudes(_lands(parts[1:])):
            yield name, _DECIDES
        elif len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "entry_points.txt":  # noqa: PLR2004
            lists.append(name)
    if sum(file.file_size for file in archive.infolist()) > _FREE_BYTES + _MOST_TIMES * _packed_bytes(archive):
        yield "more than a hundred times its size", "which no software is"
    for name in lists:
        yield from ((script, _DECIDES) for script in _scripts(archive, name))


def _packed_bytes(archive: zipfile.ZipFile) -> int:
    return sum(file.compress_size for file in archive.infolist())


def _lands(parts: Sequence[str]) -> Sequence[str]:
    """Give where in the environment a file of a wheel's ``.data`` goes."""
    scheme, rest = parts[0], parts[1:]
    if scheme == "data":
        return rest
    return ("bin", *rest) if scheme == "scripts" else (_SITE, *rest)


def _scripts(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """Give the programs among a wheel's entry points that would be an interpreter's, or lie elsewhere.

    It reads as the most lenient installer does: of a list that cannot be read, the list itself is given.
    """
    try:
        with archive.open(name) as file:
            data = file.read(_MOST_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        yield name
        return
    if len(data) > _MOST_BYTES:
        yield name
    section = ""
    for line in map(str.strip, data.decode("utf-8-sig", "replace").splitlines()):
        if line.startswith("["):
            section = line.strip("[] \t")
        elif line and not line.startswith(("#", ";")) and section in ("", "console_scripts", "gui_scripts"):
            script = line.partition("=")[0].strip()
            if re.search(r"[/\\:]", script) or _intrudes(["bin", script]):
                yield f"bin/{script}"


def _intrudes(path: Sequence[str]) -> bool:
    """Whether a file that is added to an environment at this path would change how its interpreter starts."""
    top, *rest = [part.casefold() for part in path if part not in ("", ".")] or [""]
    if top in _LIBRARIES:
        inside = len(rest) > 1 and rest[0].startswith("python") and rest[1] == _SITE
        return not rest or (_OF_LIBRARY.fullmatch(rest[0]) is not None and not inside)
    if top in _PROGRAMS:
        return not rest or rest[0] == "modules" or _OF_START.fullmatch(rest[0]) is not None
    return _OF_START.fullmatch(top) is not None


def _outside(venv: Path) -> Iterator[Path]:
    """Walk an environment without following links, and without what is installed."""
    left = [venv]
    while left:
        here = left.pop()
        for path in sorted(here.iterdir()):
            yield path
            is_site = path.name == _SITE and here.parent.parent == venv and here.parent.name.casefold() in _LIBRARIES
            if path.is_dir() and not path.is_symlink() and not is_site:
                left.append(path)


def _fingerprint(path: Path) -> str:
    if path.is_symlink():
        target = path.stat() if path.exists() else None
        seen = (target.st_dev, target.st_ino, target.st_size, target.st_mtime_ns) if target is not None else None
        return f"link to {path.readlink()} {seen if path.is_file() else ''}"
    if not path.is_file():
        return "folder"
    return f"{path.stat().st_mode:o} {digest_of(path)}"


def _recorded(venv: Path) -> dict[str, str]:
    """Give whose files lie in an environment, by path: what the distributions' ``RECORD`` say."""
    listed = {}
    records = [*venv.glob(f"[Ll]ib*/*/{_SITE}/*.dist-info/RECORD"), *venv.glob(f"[Ll]ib/{_SITE}/*.dist-info/RECORD")]
    for record in records:
        inside, owner = record.parent.parent.relative_to(venv), record.parent.name.removesuffix(".dist-info")
        for line in record.read_text("utf-8", "replace").splitlines():
            name = line.rsplit(",", 2)[0].strip('"')
            listed[Path(os.path.normpath(inside / name)).as_posix().casefold()] = owner
    return listed
