"""A cage for code that somebody else wrote: applied by a process to itself, before it opens that code, and for good.

Three parts of Linux make it, and all three must be there: Landlock (files; from kernel 6.2, where it also refuses to
cut files short), seccomp (system calls), and "no new privileges". Only the standard library is imported here, since the
cage closes around a process of one thread: call `enforce` before NumPy or a framework starts its own.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuropod_core.errors import SandboxError
from neuropod_core.sandbox import _kernel, _landlock, _seccomp
from neuropod_core.sandbox._surroundings import clean_environment, installed_entries, readable_for_python

__all__ = [
    "REMEDY",
    "SandboxLimits",
    "SandboxReport",
    "available",
    "clean_environment",
    "enforce",
    "installed_entries",
    "readable_for_python",
]

REMEDY = "run it on Linux 6.2 or later with Landlock, or pass the trust that the package needs"
"""What to do where a part of the sandbox is missing."""

_LEAST_LANDLOCK = 3  # Before, files can be cut short by truncate(2).
_SCOPED_LANDLOCK = 6


@dataclass(frozen=True)
class SandboxReport:
    """What the kernel offers.

    Attributes
    ----------
    enforced
        What `enforce` would enforce here, one promise a line; empty where it would refuse.
    missing
        What stands in the way, with the kernel's own reason; empty where nothing does.
    landlock_abi
        The version of Landlock's interface; 0 without Landlock.
    kernel, machine
        As ``uname`` gives them.
    """

    enforced: tuple[str, ...]
    missing: tuple[str, ...]
    landlock_abi: int
    kernel: str
    machine: str

    @property
    def complete(self) -> bool:
        """Whether everything that a sandbox promises can be enforced here."""
        return not self.missing


@dataclass(frozen=True)
class SandboxLimits:
    """How much a sandboxed process may use.

    Parameters
    ----------
    open_files
        Descriptors at a time, at most what the process may have now.
    address_space_bytes
        All its mappings; None for no limit. Frameworks reserve far more than they use.
    file_bytes
        Size of one file, in the scratch folder or in memory; None for no limit. To write past it fails (EFBIG).
    tasks
        Processes and threads of this user, those outside included; None for no limit. The kernel exempts root.
    """

    open_files: int = 4096
    address_space_bytes: int | None = None
    file_bytes: int | None = None
    tasks: int | None = None


def available() -> SandboxReport:
    """Ask the kernel what it offers; nothing is changed."""
    machine, kernel = platform.machine(), platform.release()
    if sys.platform != "linux":
        return SandboxReport((), (f"there is no sandbox on {sys.platform}",), 0, kernel, machine)
    abi, why = _landlock.version()
    missing = tuple(_missing(abi, why, machine))
    return SandboxReport(() if missing else _promises(abi), missing, abi, kernel, machine)


def enforce(
    scratch: Path,
    *,
    readable: Sequence[Path] | None = None,
    devices: Sequence[Path] = (),
    limits: SandboxLimits | None = None,
) -> tuple[str, ...]:
    """Close the cage around this process, and every thread that it starts from now on; it cannot be opened again.

    Parameters
    ----------
    scratch
        The one folder in which files may be made, written and removed.
    readable
        Files and folders that may be read, everything below them included; None for all. `readable_for_python` lists
        what the interpreter itself needs. The scratch folder is readable in any case.
    devices
        Device files that may be read, written and given commands, such as ``/dev/nvidia0``.
    limits
        How much may be used; None for the defaults.

    Returns
    -------
    What is enforced, one promise a line.

    Raises
    ------
    SandboxError
        If a part is not available, before anything is changed; if the process has several threads, or a path is not
        there, likewise. If the kernel refuses a step, the process is left half caged: end it.
    """
    report = available()
    if report.missing:
        raise SandboxError(report.missing, remedy=REMEDY)
    _check_one_thread()
    rules = _landlock.rules(scratch, readable, devices, report.landlock_abi)
    try:
        _limit(limits or SandboxLimits())
        _kernel.forbid_new_privileges()
        _kernel.drop_capabilities()  # It reads in /proc, which may be out of reach thereafter.
        _landlock.restrict(rules, report.landlock_abi)
        _seccomp.install(_seccomp.program(report.machine, os.getpid(), devices=bool(devices)))
    except OSError as error:
        raise SandboxError((f"the kernel refused a part: {error}",), remedy="end this process") from error
    reading = "reads anywhere" if readable is None else f"reads below {len(readable)} paths and its scratch folder only"
    return (*report.enforced, reading)


def _missing(abi: int, why: str, machine: str) -> list[str]:
    missing = []
    if abi < _LEAST_LANDLOCK:
        there = why if abi == 0 else f"this kernel has version {abi}"
        missing.append(f"Landlock version {_LEAST_LANDLOCK} (no writing outside): {there}")
    if machine not in _seccomp.MACHINES:
        missing.append(f"a seccomp filter for {machine} (no network, no processes): there is none")
    elif reason := _seccomp.unavailable():
        missing.append(f"seccomp (no network, no processes): {reason}")
    return missing


def _promises(abi: int) -> tuple[str, ...]:
    scope = "seccomp and Landlock" if abi >= _SCOPED_LANDLOCK else "seccomp"
    return (
        f"writes files below its scratch folder only (Landlock {abi})",
        "opens no socket: no network, no Unix socket but those it was given (seccomp)",
        "starts no process and no program (seccomp)",
        f"signals and looks into no other process ({scope})",
        "pins no thread but the one that asks to CPUs: it is told yes, and nothing happens (seccomp)",
        "changes no owner, mode, time or attribute of a file, by no command of a file system either (seccomp)",
        "watches no file, and makes nobody wait who opens one: no inotify, fanotify, leases (seccomp)",
        "no io_uring, bpf, keyrings, namespaces, mounts, System V or POSIX queues (seccomp)",
        "no new privileges, no capabilities, no higher limits, no core files (prctl, capset, setrlimit)",
    )


def _check_one_thread() -> None:
    count = sum(1 for _ in Path("/proc/self/task").iterdir())
    if count != 1:
        what = f"one thread, for the kernel cages threads one by one: this process has {count}"
        raise SandboxError((what,), remedy="call it before NumPy or a framework is imported")


def _limit(limits: SandboxLimits) -> None:
    import resource

    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_AS: limits.address_space_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NPROC: limits.tasks,
    }
    for kind, most in wanted.items():
        if most is not None:
            hard = resource.getrlimit(kind)[1]
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (value, value))
