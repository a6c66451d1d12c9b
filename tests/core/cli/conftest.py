"""Real packages, a real plugin, and the command as users start it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from neuropod_core import Problem, plugins
from neuropod_core.cli._group import neuropod
from neuropod_core.packaging import new_package

DOUBLES = Path(__file__).parent / "doubles"
SCRIPT = Path(sys.executable).with_name("neuropod")
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "neuropod_core.cli"]
VECTOR = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}, name="vectors")
DISTRIBUTIONS = {
    "neuropod_double-1.2": {"double": "neuropod_double", "contested": "neuropod_double", "unframed": "neuropod_double"},
    "neuropod_rival-3.4": {"contested": "neuropod_double"},
    "neuropod_broken-0.1": {"shattered": "no_such_module"},
    "neuropod_barred-0.1": {"barred": "neuropod_double"},
}

_OF_THE_TESTER = {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONUNBUFFERED"}

# click before 8.2 mixes stderr into stdout unless it is told not to.
SEPARATE: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}

Write = Callable[..., Path]
Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that, on the path, holds installed plugins."""
    folder = tmp_path_factory.mktemp("installed")
    for title, entries in DISTRIBUTIONS.items():
        name, version = title.split("-")
        made = folder / f"{title}.dist-info"
        made.mkdir()
        made.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )
        lines = "\n".join(f"{platform} = {module}" for platform, module in entries.items())
        made.joinpath("entry_points.txt").write_text(f"[neuropod.backends]\n{lines}\n")
    return folder


@pytest.fixture
def environment(installed: Path, tmp_path: Path) -> dict[str, str]:
    """Give the environment of a process that sees the plugins, and nothing of the tester's terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_TESTER}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(installed), str(DOUBLES)]),
        "NEUROPOD_BLOCKED_PLUGINS": "neuropod-barred",
        "NEUROPOD_CACHE_DIR": str(tmp_path / "cache"),
        "TERM": "xterm-256color",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Start:
    """Give the function that starts the command, as it is installed, in a process of its own."""

    def started(*arguments: object, env: dict[str, str] | None = None, **how: object) -> subprocess.Popen[bytes]:
        streams: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]  # one of many overloads, by how
            [*COMMAND, *map(str, arguments)], cwd=tmp_path, env=environment | (env or {}), **(streams | how)
        )

    return started


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(DOUBLES)
    plugins.register(importlib.import_module("neuropod_double"), "double", "neuropod-double")
    yield
    plugins.unregister("double")


@pytest.fixture
def invoke() -> Invoke:
    """Give the function that runs the command in this process."""

    def invoked(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner(**SEPARATE).invoke(neuropod, list(map(str, arguments)), input=stdin)

    return invoked


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Give the function that writes a package whose model is a function of the plugin."""

    def written(function: str = "double", problem: Problem = VECTOR, *, test: bool = True, **arguments: object) -> Path:
        path = tmp_path / f"{function}.neuropod"
        if test:
            arguments["test_input_data"] = {"x": np.array([1, 2], np.float32)}
        with new_package("double", neuropod_path=path, model_name=function, problem=problem, **arguments) as new:  # type: ignore[arg-type]  # any argument of a packager
            (new.folder / "data").mkdir()
            (new.folder / "data" / "model.json").write_text(json.dumps({"function": function}))
        return path

    return written
