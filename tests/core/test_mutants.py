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

BACKENDS = Path(__file__).parent / "mutants" / "backends.py"
NAMES = ["Sound", *re.findall(r"^class (\w+)\(Sound\)", BACKENDS.read_text(), re.MULTILINE)]
MUTANTS = NAMES[1:]

CONFTEST = """
import json, os, pytest
failed = {}

def pytest_collection_modifyitems(items):
    # Checks that start a process come last: most mutants are caught before.
    items.sort(key=lambda item: (item.cls.__name__, "descriptor" in item.name or "trust_class" in item.name))

def pytest_runtest_setup(item):
    if failed.get(item.cls.__name__) and item.cls.__name__ != "TestSound":
        pytest.skip("this mutant is caught")

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
from mutant_backends import write
from neuropod_core.testing import BackendTests

class {name}(BackendTests):
    platform = "{platform}"

    @pytest.fixture
    def write_model(self):
        return lambda model, problem, path: write("{platform}", model, problem, path)
"""


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run the suite on every mutant, in one process beside this one; give the checks that failed, by mutant."""
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copy(BACKENDS, folder / "mutant_backends.py")
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


def test_there_are_at_least_twenty_mutants() -> None:
    assert len(MUTANTS) >= 20


def test_a_sound_backend_passes(caught: dict[str, list[str]]) -> None:
    assert caught["Sound"] == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str, caught: dict[str, list[str]]) -> None:
    assert caught[mutant]
