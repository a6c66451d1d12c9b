"""Measures what neuropod costs: ``python benchmarks [NAME...] [--quick] [--json FILE] [--check]``.

Each suite runs in a process of its own, so that the threads of one framework do not disturb another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from report import Row, as_json, as_text, from_json
from timing import Effort

_FRAMEWORKS = ("torchscript", "torch_export", "torch_aoti", "tensorflow", "onnx", "python")
SUITES = ("core", *_FRAMEWORKS, "worker", "waiting", "loading", "imports")


def main() -> int:
    """Measure, print, write; with ``--check`` a missed target is a failure."""
    arguments = parsed()
    effort = Effort.quick() if arguments.quick else Effort.full()
    names = arguments.names or SUITES
    if len(names) == 1:
        rows = measured(names[0], effort)
    else:
        rows = [row for name in names for row in measured_apart(name, quick=arguments.quick)]
    record = as_json(rows, asdict(effort))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    print(as_text(record))
    return int(arguments.check and any(row["verdict"] == "MISSED" for row in record["results"]))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"suites to run: {', '.join(SUITES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a first impression in under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions and all medians")
    parser.add_argument("--check", action="store_true", help="end with 1 if a target is missed")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(SUITES)):
        parser.error(f"no suite is called {', '.join(unknown)} (suites: {', '.join(SUITES)})")
    return arguments


def measured(name: str, effort: Effort) -> list[Row]:
    """Run one suite in this process."""
    rows: list[Row] = import_module(f"suites.{name}").measure(effort)
    return rows


def measured_apart(name: str, *, quick: bool) -> list[Row]:
    """Run one suite in a process of its own."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        record = Path(folder) / "record.json"
        command = [sys.executable, *_warnings(), str(Path(__file__).parent), name, "--json", str(record)]
        subprocess.run([*command, *(["--quick"] if quick else [])], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        return from_json(json.loads(record.read_text())["results"])


def _warnings() -> list[str]:
    return [f"-W{option}" for option in sys.warnoptions]


if __name__ == "__main__":
    sys.exit(main())
