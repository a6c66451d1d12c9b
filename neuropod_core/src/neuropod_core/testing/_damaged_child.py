"""Tries damaged artefacts, one a line of stdin, and answers on the pipe that it was given: see `damage`."""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import traceback
from pathlib import Path

from neuropod_core.backend import Tensors
from neuropod_core.errors import NeuropodError
from neuropod_core.loading import load_neuropod
from neuropod_core.package import Package
from neuropod_core.testing.damage import damaged
from neuropod_core.trust import Trust

_MOST_WORDS = 2500  # An error is for people; all of an artefact is not.


def main(folder: str, artefact: str, memory_bytes: str, answers: str) -> None:
    """Run the sound package, then try what is asked for until nobody asks."""
    package, target = Path(folder), Path(folder, artefact)
    sound = target.read_bytes()
    with Package.open(package) as opened:
        data = opened.test_data()
    inputs: Tensors = dict(data.inputs) if data is not None else {}
    _run(package, inputs)
    _limit(int(memory_bytes))
    with os.fdopen(int(answers), "w", buffering=1) as pipe:
        pipe.write("{}\n")
        for line in sys.stdin:
            target.unlink()  # What the last case has mapped stays as it was.
            target.write_bytes(damaged(sound, random.Random(int(line))))  # noqa: S311 - the same damage in each run
            pipe.write(json.dumps(_tried(package, inputs)) + "\n")


def _run(package: Path, inputs: Tensors) -> None:
    with load_neuropod(package, trust=Trust.CODE) as model:
        model.infer(inputs)


def _tried(package: Path, inputs: Tensors) -> dict[str, str]:
    try:
        _run(package, inputs)
    except NeuropodError as error:
        told = str(error)
        is_told_well = "\n" not in told and len(told) < _MOST_WORDS
        return {"outcome": type(error).__name__, "wrong": "" if is_told_well else f"message: {told:.300}"}
    except BaseException as error:  # noqa: BLE001 - whatever escapes is what is looked for
        return {"outcome": type(error).__name__, "wrong": traceback.format_exc()[-1500:]}
    return {"outcome": "results", "wrong": ""}


def _limit(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
