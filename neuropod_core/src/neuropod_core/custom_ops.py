"""Libraries of custom operators: which of them this machine can load, and each content once per process.

A framework's registry of operators belongs to the process. Loaded a second time, a library fails, or takes the process
down. So what was loaded is remembered by content, wherever the file lies, and models that bring the same library share
it.
"""

from __future__ import annotations

import hashlib
import mmap
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from neuropod_core._binaries import systems_and_machines
from neuropod_core.errors import CustomOpError, NeuropodError
from neuropod_core.variants import Variant

__all__ = [
    "CLASH_REMEDY",
    "bytes_of",
    "clash",
    "for_this_machine",
    "load_once",
    "loaded_once",
    "registering",
    "target_of",
    "targets_of",
    "this_machine",
]

CLASH_REMEDY = "run the model in a process of its own: load_neuropod(..., placement='worker')"
"""What helps where operators of one name come from two libraries."""

_SIGNS_OF_A_CLASH = ("already registered", "already exists", "already been", "only a single", "multiple", "duplicate")
_SYSTEMS = {"darwin": "macos", "win32": "windows", "cygwin": "windows"}
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "i386": "x86", "i686": "x86", "armv7l": "arm"}
_NARROW = {"x86_64": "x86", "aarch64": "arm"}  # What a process of 32 bits is on such a machine.
_CHUNK_BYTES = 1 << 20

_T = TypeVar("_T")
_lock = threading.RLock()  # A library may, while it is loaded, load another.
_loaded: dict[tuple[str, str], object] = {}


# -- which machine ----------------------------------------------------------------------------------------------------


def this_machine() -> str:
    """Name the operating system and the architecture of this process: ``linux-x86_64``, ``macos-aarch64``."""
    machine = _machine(platform.machine())
    if sys.maxsize < 2**32:
        machine = _NARROW.get(machine, machine)
    return f"{_SYSTEMS.get(sys.platform, sys.platform.rstrip('0123456789'))}-{machine}"


def target_of(library: Path) -> str:
    """Name what a library was built for, as its header says: ``linux-x86_64``, ``macos-aarch64+x86_64``.

    Empty if it is no shared library of a known kind (ELF, Mach-O, PE).

    Raises
    ------
    OSError
        If it cannot be read.
    """
    system, machines = systems_and_machines(library)
    return f"{system}-{'+'.join(machines)}" if system else ""


def targets_of(libraries: Iterable[Path]) -> dict[str, str]:
    """Name what each library was built for, by its name; without those that are unknown or cannot be read."""
    targets: dict[str, str] = {}
    for library in libraries:
        with suppress(OSError):
            targets[library.name] = target_of(library)
    return {name: target for name, target in targets.items() if target}


def for_this_machine(variant: Variant, targets: Mapping[str, str]) -> Variant:
    """Keep the libraries of a variant that this machine can load.

    Parameters
    ----------
    variant
        Whose libraries to choose from; those of other machines stay on disk.
    targets
        Name of a library -> what the package says that it was built for; for the others, their headers tell. What
        neither tells is left to the framework.

    Raises
    ------
    CustomOpError
        If there are libraries and none fits, or a header contradicts the package.
    """
    if not variant.custom_ops:
        return variant
    built_for = {library: _target(library, targets.get(library.name, "")) for library in variant.custom_ops}
    fitting = tuple(library for library, target in built_for.items() if _fits(target))
    if not fitting:
        there = ", ".join(f"{library.name}: {target}" for library, target in built_for.items())
        what = f"no custom operators for {this_machine()} (there are {there})"
        raise CustomOpError(what, variant.name, "package the model with a library for this machine in custom_ops")
    return replace(variant, custom_ops=fitting)


def _target(library: Path, declared: str) -> str:
    try:
        found = target_of(library)
    except OSError as error:
        raise CustomOpError(f"cannot be read: {error}", f"ops/{library.name}") from error
    if declared and found and _parts(declared) != _parts(found):
        what = f"the package says that it was built for {declared}, its header says {found}"
        raise CustomOpError(what, f"ops/{library.name}", "package the model again")
    return declared or found


def _fits(target: str) -> bool:
    system, machines = _parts(target)
    here, (machine,) = _parts(this_machine())
    return not target or (system == here and machine in machines)


def _parts(target: str) -> tuple[str, tuple[str, ...]]:
    system, _, machines = target.lower().partition("-")
    return _SYSTEMS.get(system, system), tuple(sorted(map(_machine, machines.split("+"))))


def _machine(name: str) -> str:
    return _MACHINES.get(name.lower(), name.lower())


# -- once per process -------------------------------------------------------------------------------------------------


def load_once(framework: str, libraries: Sequence[Path], load: Callable[[Path], object]) -> None:
    """Load libraries into a framework, each content once per process.

    A library is recognised by its sha256, whichever package brings it. One whose copy the application itself has
    loaded counts as loaded. One thread loads at a time.

    Parameters
    ----------
    framework
        Name and version, for messages: ``torch 2.13.0``. Contents are remembered for each name.
    libraries
        Absolute paths, in the order in which they are to be loaded.
    load
        Loads one. It refuses what would take the process down: nothing can catch that later.

    Raises
    ------
    CustomOpError
        If `load` raises, whatever that is; its error is the ``__cause__``.
    """
    for library in libraries:
        with registering(framework, library):
            loaded_once(framework.partition(" ")[0], library, lambda path: None if _is_mapped(path) else load(path))


def loaded_once(framework: str, library: Path, load: Callable[[Path], _T]) -> _T:
    """Give what `load` gave for the content of `library` the first time, whichever file it was loaded from.

    One thread loads at a time. What `load` raises passes through, and the next call tries again.
    """
    with _lock:
        key = framework, _digest(library)
        if key not in _loaded:
            _loaded[key] = load(library)
        return _loaded[key]  # type: ignore[return-value]  # what `load` gave under this key


@contextmanager
def registering(framework: str, library: Path) -> Iterator[None]:
    """Turn whatever a framework raises while it loads `library` into a `CustomOpError` with the remedy.

    Raises
    ------
    CustomOpError
    """
    try:
        yield
    except NeuropodError:
        raise
    except Exception as error:
        said = str(error.__cause__ or error).strip()  # The loader's own words, where the framework only wraps them.
        line = said.splitlines()[0][:300] if said else type(error).__name__
        is_clash = any(sign in said.lower() for sign in _SIGNS_OF_A_CLASH)
        remedy = CLASH_REMEDY if is_clash else f"build the library for {framework}, and bring what it is linked against"
        what = f"{framework} cannot load the custom operators: {line}"
        raise CustomOpError(what, f"ops/{library.name}", remedy) from error


def clash(library: Path, registered: str) -> CustomOpError:
    """Give the error for a library that would register what another one in this process has: `registered`."""
    what = f"it registers {registered}, which another library has registered in this process"
    return CustomOpError(what, f"ops/{library.name}", CLASH_REMEDY)


@contextmanager
def bytes_of(library: Path) -> Iterator[mmap.mmap]:
    """Lend the content of a library, to be searched without reading it whole.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is empty.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _is_mapped(library: Path) -> bool:
    """Tell whether this process runs code of a file with the same content; known on Linux only."""
    size, digest = library.stat().st_size, _digest(library)
    for path in map(Path, _mapped_files()):
        with suppress(OSError):
            if path.stat().st_size == size and _digest(path) == digest:
                return True
    return False


def _mapped_files() -> list[str]:
    """List the files whose code this process can run; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    fields = (line.split(maxsplit=5) for line in lines)
    return sorted({parts[5] for parts in fields if len(parts) == 6 and "x" in parts[1] and parts[5][0] == "/"})  # noqa: PLR2004 - the path is the sixth
