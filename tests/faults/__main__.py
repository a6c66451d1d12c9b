"""Breaks workers ten thousand times: ``python tests/faults [--faults N] [--seconds S] [--state FILE] [--json FILE]``.

Threads and tasks call all the while, and look at every answer. Each fault follows from the seed and its number alone.
With ``--state`` a run that was broken off goes on where it ended. Ends with 1 if an answer was lost, crossed or late,
if something was leaked, or if a fault had another error than its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "core" / "worker" / "plugin")]  # Workers import the model from here too.

import soak  # noqa: E402 - found there
from harness import Plan, as_text, run, victim  # noqa: E402 - found there


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=10_000, help="how many in all (default: 10 000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--rest", type=float, default=0.03, dest="rest_s", help="the longest rest between two calls")
    parser.add_argument("--state", type=Path, metavar="FILE", help="where to remember how far the run came")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report")
    parser.add_argument("--calls", type=int, metavar="N", help="no faults, but N calls and the memory in use meanwhile")
    parser.add_argument("--victim", action="store_true", help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    if arguments.pop("victim"):
        victim()
    if calls := arguments.pop("calls"):
        samples = soak.soak(calls)
        print(soak.as_text(samples))  # noqa: T201 - the point of the program
        return int(bool(soak.grown(samples)))
    path = arguments.pop("json")
    report = run(Plan(**arguments))
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")
    print(as_text(report))  # noqa: T201 - the point of the program
    return int(bool(report["complaints"]))


if __name__ == "__main__":
    sys.exit(main())
