"""What a command says: tables on a terminal, one record a line in a pipe, or one JSON document.

A command builds a `Report` once; how it looks is decided here alone. In a pipe each line is a record, its fields are
separated by tabs, and the first one says what it is::

    platform<TAB>onnx
    input<TAB>image<TAB>uint8[N, 8, 8]<TAB>required

JSON is pure ASCII: what is not is escaped, and so is anything that a terminal would obey.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import click

from neuropod_core.cli._text import clean

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from neuropod_core.sources import Transfer

__all__ = ["Facts", "Lines", "Output", "Report", "Table", "fetching", "progress", "silence", "steps"]

_STYLES = {
    "ok": "green",
    "skipped": "yellow",
    "blocked": "yellow",
    "no-framework": "yellow",
    "failed": "bold red",
    "broken": "bold red",
    "conflict": "bold red",
}
_MOST_ROWS = 40


class Lines(str):
    """A printable text of several lines; one line in a pipe."""

    __slots__ = ()


@dataclass(frozen=True)
class Facts:
    """Named values, one a line: a name, a value, and perhaps a note about it."""

    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Table:
    """Rows of equal length.

    Parameters
    ----------
    record
        The word that begins each line in a pipe; empty where the first column is that word.
    columns
        Titles, for people.
    rows
        Cells from left to right.
    wide
        The column that gets what room is left.
    plain_rows
        What goes into a pipe instead of `rows`.
    """

    record: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    wide: str = ""
    plain_rows: Sequence[Sequence[object]] | None = None

    def records(self) -> Iterator[Sequence[object]]:
        """Give the lines for a pipe."""
        for row in self.rows if self.plain_rows is None else self.plain_rows:
            yield (self.record, *row) if self.record else row


@dataclass(frozen=True)
class Report:
    """One answer in both forms: a document for programs, blocks for people."""

    document: dict[str, Any]
    blocks: Sequence[Facts | Table] = field(default_factory=list)


class Output:
    """Where the answer goes.

    Parameters
    ----------
    as_json
        Whether it is one JSON document.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._stream: TextIO = sys.stdout
        self._as_json = as_json

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep stdout for the answer alone: what models and frameworks print in the block goes to stderr.

        Their native code too, so descriptor 1 is not given back: C keeps text that it writes when the process ends.
        """
        before, is_own = sys.stdout, self._stream is sys.__stdout__
        if is_own:
            self._stream = _moved(self._stream)
        sys.stdout = sys.stderr
        try:
            yield
        except BaseException:
            sys.stdout = self._stream if is_own else before  # For the error.
            raise
        if not is_own:  # Else what is printed later, as the interpreter ends, goes to stderr too.
            sys.stdout = before

    def show(self, report: Report) -> None:
        """Write a report.

        Raises
        ------
        BrokenPipeError
            If nobody reads it any more.
        click.ClickException
            If it cannot be written for another reason.
        """
        try:
            self._write(report)
            self._stream.flush()
        except OSError as error:
            silence(self._stream)
            if isinstance(error, BrokenPipeError):
                raise
            raise click.ClickException(f"the answer cannot be written: {error.strerror}") from error

    def _write(self, report: Report) -> None:
        if self._as_json:
            indent = 2 if self._stream.isatty() else None
            self._stream.write(json.dumps(report.document, allow_nan=False, default=str, indent=indent) + "\n")
        elif self._stream.isatty():
            _print_pretty(self._stream, report.blocks)
        else:
            self._stream.writelines(_plain_lines(report.blocks))


def silence(stream: TextIO) -> None:
    """Let what `stream` still holds go nowhere: nobody reads it, and Python would complain when it exits."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def progress(doing: str) -> Iterator[None]:
    """Show on a terminal that something takes its time."""
    with _console(sys.stderr).status(clean(doing)) if sys.stderr.isatty() else nullcontext():
        yield


@contextmanager
def steps(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far something is; the block calls what it gets with the number of steps done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import Progress

    # No thread of its own: it would disturb what is timed in between.
    with Progress(console=_console(sys.stderr), auto_refresh=False, transient=True) as bar:
        task = bar.add_task(clean(doing), total=total)
        yield lambda done: bar.update(task, completed=done, refresh=True)


@contextmanager
def fetching(source: str, doing: str) -> Iterator[Callable[[Transfer], None] | None]:
    """Show on a terminal how much of a package behind a URL is here; the block passes what it gets as `on_transfer`."""
    if "://" not in source or not sys.stderr.isatty():
        with progress(doing):
            yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TransferSpeedColumn(), console=_console(sys.stderr), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(transfer: Transfer) -> None:
            if transfer.place not in tasks:
                tasks[transfer.place] = bar.add_task(clean(f"fetching {transfer.place}"), total=transfer.total)
            bar.update(tasks[transfer.place], completed=transfer.received, total=transfer.total)

        yield show


# -- a pipe -----------------------------------------------------------------------------------------------------------


def _plain_lines(blocks: Sequence[Facts | Table]) -> Iterator[str]:
    for block in blocks:
        for record in block.rows if isinstance(block, Facts) else block.records():
            yield "\t".join(map(_one_line, record)).rstrip("\t") + "\n"


def _one_line(value: object) -> str:
    return " ".join(line.strip() for line in value.split("\n")) if isinstance(value, Lines) else clean(value)


def _moved(stdout: TextIO) -> TextIO:
    """Give a stream to where `stdout` leads, and let `stdout` lead to stderr."""
    try:
        stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, io.UnsupportedOperation):  # One of them is closed.
        return stdout
    return os.fdopen(kept, "w", encoding=stdout.encoding, errors="backslashreplace")


# -- a terminal -------------------------------------------------------------------------------------------------------


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Not only colour: where NO_COLOR is set, bold and faint go too.
    colour: Any = None if os.environ.get("NO_COLOR") else "auto"
    return Console(
        file=stream,
        force_terminal=True,
        color_system=colour,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
    )


def _print_pretty(stream: TextIO, blocks: Sequence[Facts | Table]) -> None:
    console = _console(stream)
    for place, block in enumerate(filter(lambda block: block.rows, blocks)):
        if place:
            console.print()
        console.print(_grid(block) if isinstance(block, Facts) else _table(block))


def _grid(facts: Facts) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value, *notes in facts.rows:
        noted = [(f"  {clean(note)}", "dim") for note in notes if note]
        grid.add_row(Text(clean(name), "dim"), Text.assemble(_cell(value), *noted))
    return grid


def _table(table: Table) -> RenderableType:
    from rich import box
    from rich.table import Table as Pretty
    from rich.text import Text

    pretty = Pretty(box=box.ROUNDED)
    for column in table.columns:
        pretty.add_column(Text(column), overflow="fold", ratio=1 if column == table.wide else None)
    for row in table.rows[:_MOST_ROWS]:
        pretty.add_row(*map(_cell, row))
    if len(table.rows) > _MOST_ROWS:
        pretty.caption = Text(f"and {len(table.rows) - _MOST_ROWS} more, listed by --json")
    return pretty


def _cell(value: object) -> Any:
    from rich.text import Text

    text = str(value) if isinstance(value, Lines) else clean(value)
    return Text(text, _STYLES.get(text, ""))
