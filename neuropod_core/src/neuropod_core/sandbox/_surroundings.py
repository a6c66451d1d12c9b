"""What a caged interpreter needs from outside: files that it reads, and environment variables."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from neuropod_core.sandbox._variables import VARIABLES

__all__ = ["clean_environment", "installed_entries", "readable_for_python"]

# Libraries and what the loader, the C library and CPU detection read; nothing of a user, of mounts, or of networks.
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/os-release",
    "/etc/ssl/openssl.cnf",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/sys/bus",
    "/sys/devices/soc0",
    "/sys/devices/system",
    "/sys/devices/virtual/dmi/id/board_vendor",
    "/sys/devices/virtual/dmi/id/product_name",
    "/sys/devices/virtual/dmi/id/sys_vendor",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/hugepages",
    "/sys/kernel/mm/transparent_hugepage",
)
# Of /proc/self: not net, mounts, mountinfo and mountstats, nor task, which has all of them again.
_OF_ITSELF = """
    auxv cgroup cmdline comm environ fd fdinfo io limits maps numa_maps oom_score smaps smaps_rollup stat statm status
""".split()  # noqa: SIM905 - as in the list of system calls
_OF_A_DEVICE = ("class", "device", "vendor")  # By which ONNX Runtime finds out whether there is a GPU.


def readable_for_python(*more: Path) -> tuple[Path, ...]:
    """List the files and folders that this interpreter and its libraries read: what is there of them.

    Its own installation and environment, every entry of ``sys.path``, the system's libraries, and what tells CPUs and
    memory. Home folders are not among them, unless Python or an entry of ``sys.path`` lies there; nor is what tells
    networks, connections and mounts.

    Parameters
    ----------
    more
        What is to be read besides: the package's folder, an environment that is not on the path yet.
    """
    library_folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    named: list[str | Path] = [
        *more,
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *sys.path,
        *library_folders,
        *_SYSTEM,
        *(f"/proc/self/{name}" for name in _OF_ITSELF),
    ]
    places = dict.fromkeys(Path(name) for name in named if name)
    links = [Path(os.path.realpath(place)) for place in places if not place.is_relative_to("/proc")]
    return tuple(place for place in dict.fromkeys([*places, *links, *_kinds_of_devices()]) if place.exists())


def _kinds_of_devices() -> Iterator[Path]:
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        folder = Path(os.path.realpath(device))
        yield from (folder / name for name in _OF_A_DEVICE)


def installed_entries(path: Iterable[str], *roots: Path) -> list[str]:
    """Keep the entries of a ``sys.path`` that were installed, and leave out what is the caller's.

    Left out are the current folder, the folder of a script, and what ``PYTHONPATH`` adds, unless something was
    installed there: a caged process reads every entry, and a home folder may be one.

    Parameters
    ----------
    path
        The entries.
    roots
        Entries that are kept in any case.
    """
    prefixes = {Path(os.path.realpath(prefix)) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    kept = {Path(os.path.realpath(root)) for root in (*roots, *_named_by_pth_files(path))}
    return [entry for entry in path if entry and _is_installed(Path(os.path.realpath(entry)), prefixes, kept)]


def _is_installed(entry: Path, prefixes: set[Path], kept: set[Path]) -> bool:
    if entry in kept or any(entry.is_relative_to(prefix) for prefix in prefixes if prefix != Path(prefix.anchor)):
        return True
    with suppress(OSError):
        return any(entry.glob("*.dist-info"))
    return False


def _named_by_pth_files(path: Iterable[str]) -> Iterator[Path]:
    """Give the folders that site packages name, as those of editable installations do."""
    sites = {*site.getsitepackages(), site.getusersitepackages()}
    for folder in sites.intersection(path):
        for file in sorted(Path(folder).glob("*.pth")):
            with suppress(OSError, UnicodeDecodeError):
                for line in file.read_text("utf-8").splitlines():
                    if line.strip() and not line.startswith(("#", "import ", "import\t")):
                        yield Path(folder, line.strip())


def clean_environment(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Give the environment variables for a caged process: language, libraries, devices, threads; no secrets.

    Each passes by its full name; the guide to the sandbox lists them. A prefix is no promise: ``TF_`` begins the names
    of TensorFlow's variables, and of passwords too.

    ``HOME`` and ``TMPDIR`` are the scratch folder. Give it to the process when it is started: what it once had, it can
    read again from ``/proc/self/environ``.
    """
    kept = {name: value for name, value in environment.items() if name in VARIABLES}
    return {**kept, "HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
