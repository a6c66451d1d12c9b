"""The demo of the README: trains, packages, runs and compares."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import Problem, load_neuropod

DEMO = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "packages"


@pytest.fixture(scope="module")
def results(packages: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(DEMO), "--json", "--keep", str(packages)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(finished.stdout)
    return rows


pytestmark = pytest.mark.slow


def test_demo_runs_one_problem_on_four_platforms(results: list[dict[str, Any]]) -> None:
    assert {row["platform"] for row in results} == {"onnx", "python", "tensorflow", "torchscript"}


def test_demo_recognises_digits_that_it_has_not_seen(results: list[dict[str, Any]]) -> None:
    assert min(row["accuracy"] for row in results) > 0.9


def test_demo_agrees_with_each_framework_run_by_hand(results: list[dict[str, Any]]) -> None:
    assert max(row["largest_difference"] for row in results) <= 1e-6


def test_demo_times_every_package_and_its_framework(results: list[dict[str, Any]]) -> None:
    assert all(row["by_hand_us"] > 0 and row["neuropod_us"] > 0 for row in results)


def test_demo_keeps_packages_that_prove_themselves(results: list[dict[str, Any]], packages: Path) -> None:
    declared = Problem.from_file(DEMO / "problem.toml")

    for row in results:
        with load_neuropod(packages / row["package"], trust="code") as model:
            assert model.problem == declared
            assert model.test()["scores"] <= 1e-6


def test_demo_needs_trust_only_for_the_package_of_code(results: list[dict[str, Any]], packages: Path) -> None:
    for row in results:
        if row["platform"] != "python":
            load_neuropod(packages / row["package"]).close()
