"""From an exception to one line on stderr, one JSON object, and an exit code that means something."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import click

from neuropod_core.cli._text import clean, clean_lines
from neuropod_core.errors import (
    BackendError,
    InferenceError,
    NeuropodError,
    OptionError,
    PackageError,
    PackageIntegrityError,
    ResultMismatchError,
    SpecError,
    TrustError,
)

__all__ = ["Code", "code_of", "document_of", "line_of", "logging_to_stderr", "surviving_exit", "traceback_of"]


class Code(IntEnum):
    """The exit codes of every command."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    UNREADABLE = 3
    NOTHING_RUNS_IT = 4
    TRUST = 5
    INFERENCE = 6
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


# The first class that fits decides.
_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (click.UsageError, Code.USAGE),
    (OptionError, Code.USAGE),
    (ResultMismatchError, Code.CHECK_FAILED),
    (PackageIntegrityError, Code.CHECK_FAILED),
    (PackageError, Code.UNREADABLE),
    (TrustError, Code.TRUST),
    (BackendError, Code.NOTHING_RUNS_IT),
    (InferenceError, Code.INFERENCE),
    (SpecError, Code.NOTHING_RUNS_IT),  # A problem that this installation cannot carry; a wrong one is a PackageError.
    (click.ClickException, Code.USAGE),
    (MemoryError, Code.INFERENCE),
    (KeyboardInterrupt, Code.INTERRUPTED),
    (click.Abort, Code.INTERRUPTED),
)
_ARGUMENT = re.compile(r"\b(trust|backend|device|cast|placement|environment)=('[^']*')")


def code_of(error: BaseException) -> Code:
    """Tell the exit code that an error ends in."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.BUG)


def line_of(error: BaseException) -> str:
    """Word an error as one printable line; arguments of Python functions are named as options of the command."""
    return _ARGUMENT.sub(r"--\1 \2", clean(_words(error)))


def document_of(error: BaseException) -> dict[str, object]:
    """Give an error as JSON knows it: its type, its message, and its facts."""
    facts = error.facts if isinstance(error, NeuropodError) else {}
    return {
        "type": type(error).__name__,
        "message": line_of(error),
        **{name: _plain(value) for name, value in facts.items() if name not in ("type", "message")},
    }


def traceback_of(error: BaseException) -> str:
    """Give the traceback of an error, printable."""
    return clean_lines("".join(traceback.format_exception(error)))


@contextmanager
def logging_to_stderr(*, verbose: bool) -> Iterator[None]:
    """Let the loggers of neuropod speak on stderr: warnings, or with `verbose` everything and tracebacks."""
    logger = logging.getLogger("neuropod")
    workers = logging.getLogger("neuropod.worker")  # What models print there, they print here.
    handler, levels = _Stderr(verbose=verbose), (logger.level, workers.level)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    workers.setLevel(logging.NOTSET if verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(levels[0])
        workers.setLevel(levels[1])


@contextmanager
def surviving_exit() -> Iterator[None]:
    """Turn an exit that a plugin or a model asks for into an error: it does not decide how this command ends."""
    try:
        yield
    except SystemExit as error:
        raise InferenceError(f"a plugin or a model called exit({error.code!r})") from error


class _Stderr(logging.Handler):
    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        is_print = record.name == "neuropod.worker" and record.levelno == logging.INFO
        level = "" if is_print else f"{record.levelname.lower()}: "
        click.echo(f"{level}{clean(record.getMessage())}", err=True)
        if self._verbose and record.exc_info and record.exc_info[1]:
            click.echo(traceback_of(record.exc_info[1]), err=True, nl=False)


def _words(error: BaseException) -> str:
    if isinstance(error, click.UsageError):
        return f"{error.format_message().rstrip('.')}; {_usage_remedy(error)}"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, NeuropodError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "there is not enough memory; pass smaller inputs"
    return f"unexpected {type(error).__name__}: {error}; run again with -v and report the traceback"


def _usage_remedy(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "neuropod"
    return f"see {command} --help"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0.0 else str(value)  # NaN and infinity are no JSON.
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
