"""What was measured, held against its target, as a table for people and as JSON for the record."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from timing import Spread

__all__ = [
    "NEUROPOD",
    "Figures",
    "Row",
    "added",
    "as_json",
    "as_text",
    "faster",
    "from_json",
    "plain",
    "took",
    "within",
]

NEUROPOD = "neuropod"
"""The way that is held against the others."""

Figures = Mapping[str, list[float]]
"""Way -> what its rounds took."""

_COLUMNS = ("", "without", "", "neuropod", "difference", "quartiles", "quiet", "target", "")
_DISTRIBUTIONS = (
    *("neuropod-core", "neuropod-torch", "neuropod-tf", "neuropod-onnx", "neuropod-python"),
    *("numpy", "torch", "tensorflow-cpu", "tensorflow", "keras", "onnxruntime", "onnxruntime-gpu"),
    *("pyzmq", "iceoryx2"),
)


@dataclass(frozen=True)
class Row:
    """One comparison: a reference, neuropod, and how they differ.

    Attributes
    ----------
    suite, case
        Where it comes from.
    way, reference
        What neuropod is compared with, and its median in `unit`.
    neuropod
        The median of neuropod in `unit`.
    value, low, high
        The difference with its quartiles, in `measure`.
    quiet
        The same in the quietest quarter of the rounds, those in which everything together took least.
    target
        What `value` may be at most, or must be at least where `at_least`; None if nothing was promised.
    medians
        Every other median that was measured along with it.
    """

    suite: str
    case: str
    unit: str
    way: str
    reference: float
    neuropod: float
    measure: str
    value: float
    low: float
    high: float
    quiet: float
    target: float | None = None
    at_least: bool = False
    medians: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``met``, ``MISSED``, or empty where there is no target."""
        if self.target is None:
            return ""
        return "met" if (self.value >= self.target if self.at_least else self.value <= self.target) else "MISSED"


def added(
    suite: str, case: str, figures: Figures, *, fixed: float | None = None, share: float = 0.0, unit: str = "us"
) -> Row:
    """Say what neuropod adds to the cheapest of the other ways; it may add `fixed` and a `share` of that."""
    medians = {name: Spread.of(values).middle for name, values in figures.items()}
    reference = min(set(figures) - {NEUROPOD}, key=lambda name: medians[name])
    pairs = list(zip(figures[NEUROPOD], figures[reference], strict=True))
    difference = Spread.of([ours - theirs for ours, theirs in pairs])
    quiet = median(ours - theirs for ours, theirs in _quietest(pairs))
    return Row(
        *(suite, case, unit, reference, medians[reference], medians[NEUROPOD]),
        *(f"{unit} added", difference.middle, difference.low, difference.high, quiet),
        target=None if fixed is None else fixed + share * medians[reference],
        medians=medians,
    )


def faster(suite: str, case: str, figures: Figures, reference: str, *, times: float, unit: str = "us") -> Row:
    """Say how many times faster than one other way neuropod is; it must be `times`."""
    medians = {name: Spread.of(values).middle for name, values in figures.items()}
    pairs = list(zip(figures[NEUROPOD], figures[reference], strict=True))
    ratio = Spread.of([theirs / ours for ours, theirs in pairs])
    quiet = median(theirs / ours for ours, theirs in _quietest(pairs))
    return Row(
        *(suite, case, unit, reference, medians[reference], medians[NEUROPOD]),
        *("times faster", ratio.middle, ratio.low, ratio.high, quiet),
        target=times,
        at_least=True,
        medians=medians,
    )


def within(
    suite: str, case: str, figures: Figures, reference: str, *, times: float | None = None, unit: str = "us"
) -> Row:
    """Say how many times as long as one other way neuropod takes; it may be `times`."""
    medians = {name: Spread.of(values).middle for name, values in figures.items()}
    pairs = list(zip(figures[NEUROPOD], figures[reference], strict=True))
    ratio = Spread.of([ours / theirs for ours, theirs in pairs])
    quiet = median(ours / theirs for ours, theirs in _quietest(pairs))
    return Row(
        *(suite, case, unit, reference, medians[reference], medians[NEUROPOD]),
        *("times as long", ratio.middle, ratio.low, ratio.high, quiet),
        target=times,
        medians=medians,
    )


def took(suite: str, case: str, values: Sequence[float], *, unit: str = "us", target: float | None = None) -> Row:
    """Say what neuropod took, where there is nothing to compare it with, and how that was spread."""
    spread = Spread.of(values)
    quiet = median(sorted(values)[: max(1, len(values) // 4)])
    return Row(
        *(suite, case, unit, "", 0.0, spread.middle, unit, spread.middle, spread.low, spread.high, quiet),
        target=target,
    )


def plain(suite: str, case: str, unit: str, value: float, *, target: float | None = None) -> Row:
    """Say what neuropod took, where there is nothing to compare it with."""
    return Row(suite, case, unit, "", 0.0, value, unit, value, value, value, value, target=target)


def _quietest(pairs: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    return sorted(pairs, key=sum)[: max(1, len(pairs) // 4)]


def as_json(rows: Iterable[Row], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give everything that somebody needs to judge or repeat the run."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        "settings": dict(settings),
        "results": [{**asdict(row), "verdict": row.verdict} for row in rows],
    }


def from_json(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Read rows that another process measured."""
    return [Row(**{key: value for key, value in result.items() if key != "verdict"}) for result in results]


def as_text(record: Mapping[str, Any]) -> str:
    """Give the record as one Markdown table under the machine and the versions."""
    rows = from_json(record["results"])
    machine = "; ".join(f"{key} {value}" for key, value in record["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    table = _table([_COLUMNS, *map(_cells, rows)])
    missed = [f"{row.suite}: {row.case}" for row in rows if row.verdict == "MISSED"]
    judged = sum(row.target is not None for row in rows)
    closing = f"{judged - len(missed)} of {judged} targets met" + (f"; MISSED {'; '.join(missed)}" if missed else "")
    return "\n".join([f"{record['command']}  ({record['finished']})", machine, versions, "", *table, "", closing])


def _cells(row: Row) -> tuple[str, ...]:
    digits = 0 if row.unit == "bytes" else 2 if row.unit == "us" else 1
    bound = "" if row.target is None else f"{'>=' if row.at_least else '<='} {row.target:.{digits}f}"
    return (
        f"{row.suite}: {row.case}",
        row.way,
        f"{row.reference:.{digits}f} {row.unit}" if row.way else "",
        f"{row.neuropod:.{digits}f} {row.unit}",
        f"{row.value:.{digits}f} {row.measure}",
        f"{row.low:.{digits}f} .. {row.high:.{digits}f}",
        f"{row.quiet:.{digits}f}",
        bound,
        row.verdict,
    )


def _table(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {0, 1, len(widths) - 1}

    def drawn(cells: tuple[str, ...]) -> str:
        padded = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + ("-" if place in left else ":") for place, width in enumerate(widths))
    return [drawn(lines[0]), f"|{rule}|", *map(drawn, lines[1:])]


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    names = [line for line in known.read_text().splitlines() if line.startswith("model name")] if known.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
