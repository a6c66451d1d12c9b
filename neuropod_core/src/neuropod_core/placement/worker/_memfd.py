"""Files without a name that nobody can shrink or grow: what Linux calls ``memfd``, with seals.

The numbers are the kernel's: a Python that was built for an older C library does not name them, nor the call.
"""

from __future__ import annotations

import errno
import fcntl
import os

from neuropod_core.errors import WorkerProtocolError

_CLOSED_ON_EXEC, _MAY_BE_SEALED = 1, 2
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEALS = 1 | 2 | 4
"""Nobody sets another seal, shrinks the file, or lets it grow."""


def sealed_file(nbytes: int) -> int:
    """Make a file of so many bytes, its pages reserved; give its descriptor.

    Raises
    ------
    OSError
        If there is not that much memory, or no such file here.
    """
    descriptor = _created()
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_sealed(descriptor: int, nbytes: int) -> None:
    """Admit a file of exactly so many bytes that nobody can take away.

    Raises
    ------
    WorkerProtocolError
        If it is anything else.
    """
    try:
        sealed, size = fcntl.fcntl(descriptor, _GET_SEALS), os.fstat(descriptor).st_size
    except OSError as error:
        raise WorkerProtocolError(f"what came as shared memory is none: {error.strerror}") from error
    if sealed & _SEALS != _SEALS or size != nbytes or nbytes <= 0:
        raise WorkerProtocolError(f"expected {nbytes} bytes of sealed memory, got {size} with seals {sealed:#x}")


def _created() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("neuropod", _CLOSED_ON_EXEC | _MAY_BE_SEALED)
    import ctypes

    make = getattr(ctypes.CDLL(None, use_errno=True), "memfd_create", None)
    descriptor = int(make(b"neuropod", _CLOSED_ON_EXEC | _MAY_BE_SEALED)) if make else -1
    if descriptor < 0:
        raise OSError(ctypes.get_errno() or errno.ENOSYS, "the system makes no memory without a name")
    return descriptor
