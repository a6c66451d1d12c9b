"""Run as a program, in a process that has no operator yet: loads the packages that it is given, one after the other.

Prints a line of JSON: for each package, what it computes, or the class and the words of what was raised.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from neuropod_core import NeuropodError, load_neuropod

X, Y = np.array([1, 2, 3], np.float32), np.array([10, 20, 30], np.float32)


def outcome(path: str, **arguments: str) -> object:
    """Load a package and run it once."""
    try:
        return load_neuropod(path, **{"trust": "code", **arguments}).infer({"x": X, "y": Y})["z"].tolist()  # type: ignore[arg-type]  # one argument, by its name
    except NeuropodError as error:
        return [type(error).__name__, str(error)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps([outcome(path) for path in sys.argv[1:]]) + "\n")
