"""Landlock: which files this process may touch.

Source: the kernel's documentation, userspace-api/landlock.rst, and its header linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuropod_core.errors import SandboxError
from neuropod_core.sandbox._kernel import call

__all__ = ["Rules", "restrict", "rules", "version"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # The same on every machine.
_VERSION_ASKED, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_ACCESS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_SPECIAL = 1 << 6 | 1 << 11  # Device files are not made, not even in the scratch folder.
_BITS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_ABI, _SCOPE_ABI = 4, 6
_NET_ALL, _SCOPE_ALL = 0b11, 0b11  # Bind and connect; abstract Unix sockets and signals.

_HARMLESS_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")

Rules = dict[Path, int]
"""What is admitted below each path, as bits of Landlock."""


def version() -> tuple[int, str]:
    """Give the version of the interface; 0 and the reason where there is none."""
    try:
        return call(_CREATE_RULESET, None, 0, _VERSION_ASKED), ""
    except OSError as error:
        return 0, f"the kernel says {error.strerror!r}"


def rules(scratch: Path, readable: Sequence[Path] | None, devices: Sequence[Path], abi: int) -> Rules:
    """Say what is admitted where; of two rules for one path, both hold.

    Raises
    ------
    SandboxError
        If a path is not there.
    """
    admitted: Rules = {}
    writing = _every(abi) & ~(_EXECUTE | _SPECIAL | _IOCTL_DEV)
    wanted = [(scratch, writing)]
    wanted += [(Path(device), _WRITE_FILE | _READ_FILE) for device in _HARMLESS_DEVICES]
    wanted += [(device, _WRITE_FILE | _READ_FILE | _IOCTL_DEV) for device in devices]
    wanted += [(path, _READ) for path in (() if readable is None else readable)]
    for path, access in wanted:
        admitted[path] = admitted.get(path, 0) | _fitting(path, access & _every(abi))
    if not scratch.is_dir():
        raise SandboxError((f"a scratch folder: {scratch} is none",), remedy="make it first")
    if readable is None:
        admitted[Path("/")] = admitted.get(Path("/"), 0) | _READ
    return admitted


def restrict(admitted: Rules, abi: int) -> None:
    """Restrict this thread to what is admitted.

    Raises
    ------
    OSError
        With the kernel's reason.
    """
    net = _NET_ALL if abi >= _NET_ABI else 0
    scope = _SCOPE_ALL if abi >= _SCOPE_ABI else 0
    fields = (_every(abi), net, scope)[: 3 if scope else 2 if net else 1]
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    with _closing(call(_CREATE_RULESET, attributes, ctypes.sizeof(attributes), 0)) as ruleset:
        for path, access in admitted.items():
            _add(ruleset, path, access)
        call(_RESTRICT_SELF, ruleset, 0)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # What Python 3.14 wants to hear of a packed structure.
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _add(ruleset: int, path: Path, access: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_PathBeneath(access, parent)), 0)
    # A rule is about an inode. Those of /proc are thrown away when memory is short, and made anew without the rule:
    # a descriptor keeps them, to the end of the process.
    if not path.is_relative_to("/proc"):
        os.close(parent)


def _every(abi: int) -> int:
    return (1 << _BITS_OF_ABI.get(abi, 16)) - 1


def _fitting(path: Path, access: int) -> int:
    """Leave out what has no meaning for a file that is no folder: the kernel refuses it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        what = f"a path to admit: {path} ({error.strerror})"
        raise SandboxError((what,), remedy="name paths that are there") from error
    return access if stat.S_ISDIR(mode) else access & _FILE_ACCESS


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
