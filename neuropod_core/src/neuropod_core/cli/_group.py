"""The command ``neuropod`` as a whole: its parts, its exit codes, its errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from neuropod_core.cli._errors import (
    Code,
    code_of,
    document_of,
    line_of,
    logging_to_stderr,
    surviving_exit,
    traceback_of,
)
from neuropod_core.cli._options import ask_for_command, asked, verbose_option
from neuropod_core.cli._output import Output, Report, silence
from neuropod_core.cli.cache import cache
from neuropod_core.cli.completion import completion
from neuropod_core.cli.env import env
from neuropod_core.cli.info import info
from neuropod_core.cli.pack import pack
from neuropod_core.cli.plugins import plugins
from neuropod_core.cli.run import run
from neuropod_core.cli.verify import verify

__all__ = ["neuropod"]


class _Neuropod(click.Group):
    """A group that ends every error in one line on stderr and a meaningful exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's own signature
        **extra: Any,
    ) -> Any:
        """Run one command; give its exit code, or exit with it in `standalone_mode`."""
        arguments = list(sys.argv[1:] if args is None else args)
        verbose = asked(arguments, "-v", "--verbose")
        _print_anything()
        try:
            with logging_to_stderr(verbose=verbose):
                code = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra) or Code.OK
        except _PipeClosedError:
            silence(sys.stdout)
            code = Code.BROKEN_PIPE
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, a user gets one line
            _report(error, as_json=asked(arguments, "--json"), verbose=verbose)
            code = code_of(error)
        if standalone_mode:
            sys.exit(int(code))
        return code

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what click would answer by itself becomes an exception that it leaves alone."""
        try:
            with surviving_exit():
                code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _PipeClosedError from error
        except KeyboardInterrupt as error:
            raise Interrupted from error
        return code


class _PipeClosedError(Exception):
    """Nobody reads stdout any more."""


class Interrupted(click.Abort):
    """Ctrl-C, which `click` would answer with an empty line."""


def _print_anything() -> None:
    """Let no character of a package end a command, whatever the terminal can show, and no stream that is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _report(error: BaseException, *, as_json: bool, verbose: bool) -> None:
    try:
        click.echo((traceback_of(error) if verbose else "") + f"error: {line_of(error)}", err=True)
    except OSError:
        silence(sys.stderr)
    if as_json:
        with suppress(OSError, click.ClickException):
            Output(as_json=True).show(Report({"error": document_of(error)}))


@click.group(
    cls=_Neuropod,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  neuropod info digits.neuropod
  neuropod run digits.neuropod --inputs digits.npz --save scores.npz
  neuropod verify *.neuropod
  neuropod pack torchscript model.pt -o digits.neuropod --problem digits.toml
  neuropod plugins
  neuropod env build digits.neuropod --trust code

\b
Exit codes:
    0  all is well
    1  a check failed: hashes, or the packaged test data
    2  wrong usage, unreadable inputs
    3  the package cannot be read
    4  nothing here runs it: no backend, framework or device, or the framework refuses the model
    5  it needs more trust than --trust (or NEUROPOD_TRUST) gives
    6  the call failed, or its inputs do not fit the problem
   70  a bug of neuropod
  130  Ctrl-C
  141  nobody reads the answer any more

\b
On a terminal the answer is a table. In a pipe each line is a record with its
fields separated by tabs, without colour (NO_COLOR is honoured on terminals
too). With --json it is one JSON document, {"error": ...} if it fails.
Messages, progress and whatever a model prints go to stderr.
""",
)
@click.version_option(package_name="neuropod-core", message="neuropod %(version)s")
@verbose_option
@click.pass_context
def neuropod(context: click.Context) -> None:
    """Package models of any framework with the problem that they solve, and run them anywhere."""
    ask_for_command(context)


for _command in (info, run, verify, pack, plugins, env, cache, completion):
    neuropod.add_command(_command)
