"""A seccomp filter: which system calls this process may make, as a program for the kernel's packet filter.

Every system call known when this was written is either refused here or can do no harm in a cage; those that came later
do not exist in it (ENOSYS), nor do those whose arguments a filter cannot see.

Sources: seccomp(2), seccomp_filter.rst of the kernel's documentation, linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from errno import ENOSYS, EOPNOTSUPP, EPERM

from neuropod_core.sandbox._kernel import call
from neuropod_core.sandbox._system_calls import ABSENT, LAST, NUMBERS, REFUSED, UNASSIGNED, UNSUPPORTED

__all__ = ["MACHINES", "install", "program", "unavailable"]

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls each machine's own calls: those of its 32-bit ancestor end the process."""

_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_SET_FILTER, _ACTION_AVAILABLE = 1, 2
_ALL_BITS = 0xFFFFFFFF

# Threads only; and no new namespace, no tracer.
_CLONE_THREAD, _CLONE_REFUSED = 0x10000, 0x7E022000
_PR_SET_PDEATHSIG = 1  # That it ends with its parent is not its own to change.
_AF_UNIX, _SOCKET_TYPE, _CONNECTED = 1, 0xF, (1, 5)  # SOCK_STREAM and SOCK_SEQPACKET know one peer only.
# Commands that ask a terminal, or are about the caller's own descriptor: TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD,
# FIONBIO, FIONCLEX, FIOCLEX, TCGETS2. Others change files that are open for reading only, or name network devices.
_IOCTL_ADMITTED = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
# Where devices are given, their drivers' commands are admitted, and no family of a file system or of sockets: f, X, v,
# r (FAT), n (NILFS), o (OCFS2), sockets, autofs, Btrfs and what others share with it, Ceph, bcachefs, ReiserFS, CIFS,
# F2FS.
_IOCTL_FAMILY = 0xFF00
_IOCTL_OF_FILES = tuple(family << 8 for family in (*b"fXvrno", 0x89, 0x93, 0x94, 0x97, 0xBC, 0xCD, 0xCF, 0xF5))
# Typing into a terminal; signals by way of descriptors.
_IOCTL_REFUSED = (0x5412, 0x541C, 0x540E, 0x5452)  # TIOCSTI, TIOCLINUX, TIOCSCTTY, FIOASYNC
_IOCTL_CLONE = (0x40049409, 0x4020940D)  # FICLONE, FICLONERANGE: whoever copies goes on by reading and writing.
# F_DUPFD to F_SETLKW, F_GETOWN, F_GETSIG, F_GETOWN_EX, F_GETOWNER_UIDS, locks of open files; F_GETLEASE, F_DUPFD_QUERY,
# F_CREATED_QUERY, F_CANCELLK, F_DUPFD_CLOEXEC, sizes of pipes, seals, F_GET_RW_HINT, F_GET_FILE_RW_HINT.
# Others tell of what other processes do to a file (F_NOTIFY), make them wait (F_SETLEASE) or send signals.
_FCNTL_ADMITTED = (
    *range(8),
    9,
    11,
    16,
    17,
    36,
    37,
    38,
    1025,
    1027,
    1028,
    1029,
    1030,
    1031,
    1032,
    1033,
    1034,
    1035,
    1037,
)
_TO_PROCESSES = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_ABOUT_PROCESSES = (
    *("prlimit64", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    *("migrate_pages", "move_pages"),
)
# Opened for reading (or, by 3, for neither) and cut short all the same: Landlock sees no writing in it.
_ACCESS_AND_TRUNC, _READ_AND_TRUNC = 0o1003, (0o1000, 0o1003)


@dataclass(frozen=True)
class _Check:
    """One argument: its low 32 bits, masked, must be among `values`, or must not be."""

    argument: int
    values: tuple[int, ...]
    mask: int = _ALL_BITS
    admitted: bool = True
    high: bool = False
    errno: int = EPERM


_Instruction = tuple[int, int, int, int]


def unavailable() -> str:
    """Say why filters cannot be had; empty where they can."""
    try:
        call(_seccomp_number(), _ACTION_AVAILABLE, 0, ctypes.byref(ctypes.c_uint32(_ERRNO)))
    except OSError as error:
        return f"the kernel says {error.strerror!r}"
    return ""


def install(instructions: bytes) -> None:
    """Put the filter on this thread, and on all that it starts.

    Raises
    ------
    OSError
        With the kernel's reason.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    descriptor = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(code))
    call(_seccomp_number(), _SET_FILTER, 0, ctypes.create_string_buffer(descriptor, len(descriptor)))


def program(machine: str, process: int, *, devices: bool = False) -> bytes:
    """Write the filter for a machine and the process with this number, which may give commands to devices or not."""
    numbers, (first, last) = NUMBERS[machine], UNASSIGNED[machine]
    instructions: list[_Instruction] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, MACHINES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, LAST + 1),
        (_RETURN, 0, 0, _ERRNO | ENOSYS),
        (_AT_LEAST, 0, 2, first),
        (_AT_LEAST, 1, 0, last + 1),
        (_RETURN, 0, 0, _ERRNO | ENOSYS),
    ]
    for name, checks in _conditions(process, _commands(devices=devices)).items():
        if name in numbers:
            block = [*_checked(checks), (_RETURN, 0, 0, _ALLOW)]
            instructions += [(_EQUAL, 0, len(block), numbers[name]), *block]
    for names, errno in ((REFUSED, EPERM), (ABSENT, ENOSYS), (UNSUPPORTED, EOPNOTSUPP)):
        for name in sorted(names & numbers.keys()):
            instructions += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | errno)]
    return b"".join(struct.pack("@HBBI", *each) for each in (*instructions, (_RETURN, 0, 0, _ALLOW)))


def _commands(*, devices: bool) -> tuple[_Check, ...]:
    cloned = _Check(1, _IOCTL_CLONE, admitted=False, errno=EOPNOTSUPP)
    if not devices:
        return (cloned, _Check(1, _IOCTL_ADMITTED))
    families = _Check(1, _IOCTL_OF_FILES, _IOCTL_FAMILY, admitted=False)
    return (cloned, families, _Check(1, _IOCTL_REFUSED, admitted=False))


def _conditions(process: int, commands: tuple[_Check, ...]) -> dict[str, tuple[_Check, ...]]:
    itself, own = _Check(0, (process,)), _Check(0, (0, process))
    return {
        "openat": (_Check(2, _READ_AND_TRUNC, _ACCESS_AND_TRUNC, admitted=False),),
        "open": (_Check(1, _READ_AND_TRUNC, _ACCESS_AND_TRUNC, admitted=False),),
        "fcntl": (_Check(1, _FCNTL_ADMITTED),),
        "ioctl": commands,
        "prctl": (_Check(0, (_PR_SET_PDEATHSIG,), admitted=False),),
        "clone": (_Check(0, (_CLONE_THREAD,), _CLONE_THREAD | _CLONE_REFUSED),),
        "socketpair": (_Check(0, (_AF_UNIX,)), _Check(1, _CONNECTED, _SOCKET_TYPE)),
        "sendto": (_Check(4, (0,)), _Check(4, (0,), high=True)),  # To whom it is connected, to nobody else.
        **dict.fromkeys(_TO_PROCESSES, (itself,)),
        **dict.fromkeys(_ABOUT_PROCESSES, (own,)),
        # A framework that cannot pin its threads tells users of errors, and goes on: this one is told that it did.
        "sched_setaffinity": (replace(own, errno=0),),
        "setpriority": (_Check(0, (0,)), _Check(1, (0, process))),
    }


def _checked(checks: Iterable[_Check]) -> Iterator[_Instruction]:
    for check in checks:
        yield (_LOAD, 0, 0, _ARGUMENTS + 8 * check.argument + 4 * check.high)
        yield (_AND, 0, 0, check.mask)
        # A hit jumps over the comparisons after it and one instruction more: the refusal, or what jumps over that.
        for left, value in zip(range(len(check.values), 0, -1), check.values, strict=True):
            yield (_EQUAL, left, 0, value)
        if not check.admitted:
            yield (_JUMP, 0, 0, 1)
        yield (_RETURN, 0, 0, _ERRNO | check.errno)


def _seccomp_number() -> int:
    return NUMBERS[os.uname().machine]["seccomp"]
