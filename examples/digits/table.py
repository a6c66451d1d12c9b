"""Prints results: in colour on a terminal, plain in a pipe, as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from compare import TOLERANCE, Result
from package import PROBLEM

__all__ = ["show", "show_json"]

_HEADS = ("package", "made with", "platform", "version", "accuracy", "difference", "us by hand", "us neuropod")
_NUMBERS = 4  # Columns from here on are numbers.


def show(results: Sequence[Result]) -> None:
    """Print one table."""
    rows, agree = [_cells(result) for result in results], [result.agrees for result in results]
    (_show_on_terminal if sys.stdout.isatty() else _show_plain)(rows, agree)


def show_json(results: Sequence[Result]) -> None:
    """Print a list of objects."""
    print(json.dumps([asdict(result) for result in results], indent=2))


def _cells(result: Result) -> tuple[str, ...]:
    return (
        *(result.package, result.made_with, result.platform, result.framework_version),
        *(f"{result.accuracy:.1%}", f"{result.largest_difference:.1e}"),
        *(f"{result.by_hand_us:.1f}", f"{result.neuropod_us:.1f}"),
    )


def _show_on_terminal(rows: Sequence[Sequence[str]], agree: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(PROBLEM), caption=_closing(agree), box=SIMPLE_HEAD)
    for place, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if place >= _NUMBERS else "left", no_wrap=True)
    for cells, agrees in zip(rows, agree, strict=True):
        table.add_row(*cells, style="" if agrees else "bold red")
    Console().print(table)


def _show_plain(rows: Sequence[Sequence[str]], agree: Sequence[bool]) -> None:
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    print(PROBLEM)
    for cells in (_HEADS, *rows):
        aligned = [
            cell.rjust(width) if place >= _NUMBERS else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())
    print(_closing(agree))


def _closing(agree: Sequence[bool]) -> str:
    return f"{sum(agree)} of {len(agree)} packages agree with their framework run by hand to {TOLERANCE:.0e}"
