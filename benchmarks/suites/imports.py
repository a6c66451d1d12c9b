"""What importing the core adds to importing NumPy, in fresh interpreters with every plugin installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from report import NEUROPOD, Row, added
from timing import Effort

__all__ = ["measure"]

SUITE = "imports"
NUMPY = "import numpy"
MAY_ADD_MS = 50.0
FRAMEWORKS = ("torch", "tensorflow", "keras", "onnxruntime", "onnx", "sklearn")

_SCRIPT = """
import json, sys
from time import perf_counter
start = perf_counter()
import numpy
between = perf_counter()
{statement}
end = perf_counter()
loaded = [name for name in {frameworks} if name in sys.modules]
print(json.dumps([(between - start) * 1e3, (end - start) * 1e3, loaded]))
"""

_STATEMENTS = (
    "import neuropod_core",
    "from neuropod_core import load_neuropod",
    "from neuropod_core import plugins; [plugin.backend().descriptor for plugin in plugins.installed()]",
)
_TITLES = ("import neuropod_core", "from neuropod_core import load_neuropod", "... and all plugins' descriptors")


def measure(effort: Effort) -> list[Row]:
    """Measure each statement in turn, again and again."""
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as byte_code:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": byte_code}
        rounds = [[_once(statement, environment) for statement in _STATEMENTS] for _ in range(effort.repetitions + 1)]
    warm = rounds[1:]  # The first one compiled everything, as an installation does.
    return [_row(title, [round_[place] for round_ in warm]) for place, title in enumerate(_TITLES)]


def _row(title: str, samples: list[tuple[float, float]]) -> Row:
    figures = {NUMPY: [numpy_ms for numpy_ms, _ in samples], NEUROPOD: [all_ms for _, all_ms in samples]}
    return added(SUITE, title, figures, fixed=MAY_ADD_MS if "descriptors" not in title else None, unit="ms")


def _once(statement: str, environment: dict[str, str]) -> tuple[float, float]:
    script = _SCRIPT.format(statement=statement, frameworks=FRAMEWORKS)
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
    numpy_ms, all_ms, loaded = json.loads(finished.stdout)
    if loaded:
        raise RuntimeError(f"{statement!r} imported {', '.join(loaded)}")
    return numpy_ms, all_ms
