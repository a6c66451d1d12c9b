"""System calls that Python does not offer.

Sources: prctl(2), capset(2), seccomp(2), landlock(7) of the Linux manual.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["call", "drop_capabilities", "forbid_new_privileges", "prctl"]

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITIES_3 = 0x20080522
_CAP_SETPCAP = 8
_CAPSET = {"x86_64": 126, "aarch64": 91}


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def call(number: int, *arguments: Any) -> int:
    """Make a system call; integers are passed as 64 bits.

    Raises
    ------
    OSError
        With the kernel's reason.
    """
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *passed))


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2).

    Raises
    ------
    OSError
        With the kernel's reason.
    """
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc().prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)))


def forbid_new_privileges() -> None:
    """Let no program that this process might start have more rights than it: what Landlock and seccomp ask for."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability of this thread, for good: root is then a user that owns root's files, and no more."""
    if _effective_capabilities() >> _CAP_SETPCAP & 1:
        for capability in range(64):
            if not _dropped(capability):
                break
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    call(_CAPSET[os.uname().machine], header, (ctypes.c_uint32 * 6)())


def _dropped(capability: int) -> bool:
    """Drop one capability from the bounding set; False if there is no such capability."""
    try:
        prctl(_PR_CAPBSET_READ, capability)
    except OSError:
        return False
    prctl(_PR_CAPBSET_DROP, capability)
    return True


def _effective_capabilities() -> int:
    lines = Path("/proc/self/status").read_bytes().splitlines()
    return next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), 0)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
