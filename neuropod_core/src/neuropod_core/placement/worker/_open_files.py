"""The limit of open files: told from other failures, and named with its remedy."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from neuropod_core.errors import WorkerStartError

_SAID = os.strerror(errno.EMFILE)


def is_at_limit(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that no more files can be opened."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


def was_at_limit(lines: tuple[str, ...]) -> bool:
    """Whether the last lines of another process tell of that."""
    return any(_SAID in line for line in lines)


def limit_error(doing: str) -> WorkerStartError:
    """Say that no more files can be opened, with the number that may be."""
    what = f"{_SAID.lower()} {doing}: this process may have {_limit()}"
    return WorkerStartError(what, remedy=REMEDY)


REMEDY = "raise the limit (ulimit -n), or close other models and files"


def _limit() -> str:
    with suppress(ImportError, OSError, ValueError):
        import resource

        return f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
    return "no more"
