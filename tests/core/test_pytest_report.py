"""The report of a conformance run, written by real runs of pytest on suites that do well and badly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
import json
from neuropod_core import Backend, Descriptor, Executor, Trust, hookimpl
neuropod_contract = (1, 0)
class Same(Executor):
    def infer(self, inputs, outputs=None):
        return {"y" + name[1:]: array.copy() for name, array in inputs.items()}
    def close(self):
        pass
class Made(Backend):
    descriptor = Descriptor("made", Trust.DATA, framework=("pytest",))
    def load(self, variant, options):
        return Same()
@hookimpl
def neuropod_backend(platform):
    return Made()
"""
SUITE = """
import pytest
from neuropod_core.packaging import new_package
from neuropod_core.testing import BackendTests, NotExpressibleError, StandardModel

class TestMade(BackendTests):
    platform = "made"
    known_gaps = {"test_strings_of_any_rank_come_back": "because it is so", **GAPS}
    @pytest.fixture
    def write_model(self):
        def write(model, problem, path):
            if model not in (StandardModel.IDENTITY, StandardModel.ADD):
                raise NotExpressibleError("there is no " + model.value)
            with new_package("made", neuropod_path=path, model_name="m", problem=problem) as new:
                (new.folder / "data").mkdir()
        return write
"""
CHOSEN = "strings or results_have_their_names or a_closed_model_says_so or fails or buffer or in_place or written"


def write_plugin(site: Path, gaps: str = "{}") -> None:
    """Install a plugin with its suite; with `ADD` it gives the wrong names, strings it copies well."""
    site.joinpath("made_plugin.py").write_text(PLUGIN)
    site.joinpath("made_suite.py").write_text(f"GAPS = {gaps}\n{SUITE}")
    facts = site / "made-4.5.dist-info"
    facts.mkdir()
    facts.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 4.5\n")
    groups = "[neuropod.backends]\nmade = made_plugin\n[neuropod.tests]\nmade = made_suite:TestMade\n"
    facts.joinpath("entry_points.txt").write_text(groups)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("pytest.ini").write_text("[pytest]\n")
    folder.joinpath("test_it.py").write_text("from made_suite import TestMade\ndef test_own(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    write_plugin(folder)
    ran = run(folder, "-p", "neuropod_core.pytest_report", "--neuropod-report", "report.json", "-k", f"own or {CHOSEN}")
    assert ran.returncode == 1, ran.stdout
    (suite,) = json.loads((folder / "report.json").read_text())["suites"]
    found: dict[str, Any] = suite
    return found


def reasons(cases: list[dict[str, str]]) -> dict[str, str]:
    return {case["check"]: case["reason"] for case in cases}


def test_report_tells_what_was_checked_with_what(report: dict[str, Any]) -> None:
    assert report["suite"] == "made_suite:TestMade"
    assert (report["platform"], report["distribution"], report["version"]) == ("made", "made", "4.5")
    assert report["placement"] == "in_process"
    assert report["contract"] == "1.0"
    assert report["framework"] == {"name": "pytest", "version": pytest.__version__}
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["seconds"] > 0


def test_report_names_what_passed(report: dict[str, Any]) -> None:
    assert "test_strings_of_one_dimension_come_back" in report["passed"]
    assert "test_own" not in report["passed"]


def test_report_tells_why_a_check_failed(report: dict[str, Any]) -> None:
    assert "sum" in reasons(report["failed"])["test_results_have_their_names"]


def test_report_counts_a_gap_that_was_closed_as_failed(report: dict[str, Any]) -> None:
    assert "because it is so" in reasons(report["failed"])["test_strings_of_any_rank_come_back"]


def test_report_tells_what_the_framework_cannot_express(report: dict[str, Any]) -> None:
    assert reasons(report["not_expressible"])["test_inputs_are_never_written"] == "there is no in_place"


def test_report_tells_the_reason_of_a_known_gap(tmp_path: Path) -> None:
    write_plugin(tmp_path, gaps="{'test_results_have_their_names': 'it has one output'}")

    run(tmp_path, "-p", "neuropod_core.pytest_report", "--neuropod-report=r.json", "-k", "results_have_their_names")

    (suite,) = json.loads((tmp_path / "r.json").read_text())["suites"]
    assert reasons(suite["known_gaps"]) == {"test_results_have_their_names": "it has one output"}
    assert suite["failed"] == suite["passed"] == []


def test_report_is_whole_when_several_processes_ran_the_suite(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    write_plugin(tmp_path)

    run(tmp_path, "-n2", "-p", "neuropod_core.pytest_report", "--neuropod-report=r.json", "-k", "strings")

    (suite,) = json.loads((tmp_path / "r.json").read_text())["suites"]
    assert suite["passed"] == ["test_strings_of_one_dimension_come_back"]
    assert list(reasons(suite["failed"])) == ["test_strings_of_any_rank_come_back"]


def test_pytest_does_not_know_the_report_unasked(tmp_path: Path) -> None:
    write_plugin(tmp_path)

    ran = run(tmp_path, "--neuropod-report=r.json")

    assert ran.returncode == 4
    assert "unrecognized arguments" in ran.stderr
