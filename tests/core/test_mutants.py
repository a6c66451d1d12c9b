"""The conformance suite catches what an author of a backend could get wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parent / "mutants"
MUTANTS = [
    name
    for module in sorted(BACKENDS.glob("*.py"))
    for name in re.findall(r"^class (\w+)\(Sound\)", module.read_text(), re.MULTILINE)
]
NAMES = ["Sound", *MUTANTS]

CONFTEST = """
import json, logging, os, pytest, signal, sys, warnings
import numpy as np
failed = {}

@pytest.fixture(autouse=True)
def put_back(monkeypatch):
    # What one mutant changes is not what another is caught for.
    monkeypatch.chdir(os.getcwd())
    environment, path, handlers = dict(os.environ), list(sys.path), list(logging.root.handlers)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with warnings.catch_warnings(), np.errstate():
        yield
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:], logging.root.handlers[:] = path, handlers
    for number, handler in signals.items():
        signal.signal(number, handler)

def pytest_collection_modifyitems(items):
    # The checks that are about such mistakes come first: most mutants are caught there. The sound backend is the last
    # of all: what it passes after them shows that none has changed what the others met.
    items.sort(key=lambda item: (item.cls.__name__ == "TestSound", item.cls.__name__, not is_about(item)))

CHECKS = {"values": "Value", "owners": "Ownership", "lives": "Life", "guests": "Surroundings", "words": "Descriptor"}

def is_about(item):
    where = item.cls.mutant.__module__.rpartition(".")[2]
    kind = next(kind for kind in item.cls.__mro__ if item.originalname in vars(kind))
    return kind.__name__ == CHECKS.get(where, "Value") + "Tests"

def pytest_runtest_protocol(item):
    return bool(failed.get(item.cls.__name__)) and item.cls.__name__ != "TestSound" or None  # It is caught.

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    failures = failed.setdefault(item.cls.__name__, [])
    if report.failed:
        failures.append(item.name)

def pytest_sessionfinish():
    with open(os.environ["CAUGHT"], "w") as file:
        json.dump(failed, file)
"""

SUITE = """
import pytest
from mutant_backends import KINDS, write
from neuropod_core.testing import BackendTests

class {name}(BackendTests):
    platform = "{platform}"
    mutant = KINDS["{platform}"]
    time_limit_s = mutant.time_limit_s

    @pytest.fixture
    def write_model(self):
        return lambda model, problem, path: write("{platform}", model, problem, path)
"""


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run the suite on every mutant, in one process beside this one; give the checks that failed, by mutant."""
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copytree(BACKENDS, folder / "mutant_backends", ignore=shutil.ignore_patterns("__pycache__"))
    facts = folder / "mutants-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mutants\nVersion: 1.0\n")
    claims = "\n".join(f"{name.lower()} = mutant_backends" for name in NAMES)
    (facts / "entry_points.txt").write_text(f"[neuropod.backends]\n{claims}\n")
    (folder / "conftest.py").write_text(CONFTEST)
    classes = "".join(SUITE.format(name=f"Test{name}", platform=name.lower()) for name in NAMES)
    (folder / "test_mutants.py").write_text(classes)

    environment = {**os.environ, "PYTHONPATH": str(folder), "CAUGHT": str(folder / "caught.json")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", str(folder)]
    run = subprocess.run(
        [*command, "--rootdir", str(folder), "-c", os.devnull],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "caught.json").exists(), run.stdout + run.stderr
    failed: dict[str, list[str]] = json.loads((folder / "caught.json").read_text())
    return {name.removeprefix("Test"): checks for name, checks in failed.items()}


def test_there_are_at_least_seventy_mutants() -> None:
    assert len(MUTANTS) >= 70


def test_a_sound_backend_passes(caught: dict[str, list[str]]) -> None:
    assert caught["Sound"] == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str, caught: dict[str, list[str]]) -> None:
    assert caught[mutant]
