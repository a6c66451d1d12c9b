"""Try packages, one a line: each is loaded and run through neuropod, and what comes of it is told in one line.

A line in is JSON: the path of a package, and of a file with inputs. A line out is ``error NAME``, ``right``, or, where
neuropod broke a promise, ``wrong WHY``. With ``by hand`` as argument, ONNX Runtime alone tries the model.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from neuropod_core import NeuropodError, load_neuropod

MOST_BYTES = 8 << 30


def main() -> None:
    """Answer lines until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = by_hand if sys.argv[1:] == ["by hand"] else through_neuropod
    for line in sys.stdin:
        job = json.loads(line)
        sys.stdout.write(answer(job["package"], inputs_of(job["inputs"])) + "\n")
        sys.stdout.flush()


def inputs_of(path: str) -> dict[str, Any]:
    """Read arrays; text was written as NumPy's own."""
    with np.load(path) as file:
        return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in file.items()}


def by_hand(package: str, inputs: dict[str, Any]) -> str:
    """Run the model as neuropod does not."""
    try:
        run(package, inputs)
    except Exception as error:  # noqa: BLE001 - its classes come and go with versions
        return f"error {type(error).__name__}"
    return "right"


def run(package: str, inputs: dict[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    session = onnxruntime.InferenceSession(Path(package, "0", "data", "model.onnx"), options)
    names = [node.name for node in session.get_outputs()]
    given = {node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())}
    feed = {name: array for name, array in inputs.items() if name in given}
    return dict(zip(names, session.run(names, feed), strict=True))


def through_neuropod(package: str, inputs: dict[str, Any]) -> str:
    """Load and run a package, and compare with ONNX Runtime where there is an answer."""
    before = {name: array.copy() for name, array in inputs.items()}
    try:
        with load_neuropod(package, trust="data") as model:
            found = [model.infer(inputs) for _ in range(3)]
    except NeuropodError as error:
        verdict = f"error {type(error).__name__}"
    except BaseException as error:  # noqa: BLE001 - this is what must not happen
        return f"wrong {type(error).__name__}: {error}".replace("\n", " ")
    else:
        verdict = "right" if all(agrees(found, package, inputs)) else "wrong answer"
    unchanged = all(same(inputs[name], array) for name, array in before.items())
    return verdict if unchanged else "wrong: the inputs were written to"


def agrees(found: list[dict[str, Any]], package: str, inputs: dict[str, Any]) -> list[bool]:
    wanted = run(package, inputs)
    return [same(array, wanted[name]) for results in found for name, array in results.items()]


def same(found: Any, wanted: Any) -> bool:
    if found.dtype == object:
        return bool(found.tolist() == wanted.tolist())
    return found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f")


if __name__ == "__main__":
    main()
