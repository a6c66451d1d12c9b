from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "neuropod_core.cli", "plugins", "check"]
PLUGIN = """
from neuropod_core import Backend, Descriptor, Executor, Trust, hookimpl
neuropod_contract = (1, 0)
class Same(Executor):
    def infer(self, inputs, outputs=None):
        return {name: inputs["x"].copy() for name in outputs or ["y"]}
    def close(self):
        pass
class Made(Backend):
    descriptor = Descriptor("made", Trust.DATA, dtypes=frozenset(["float32"]))
    def load(self, variant, options):
        return Same()
@hookimpl
def neuropod_backend(platform):
    return Made()
"""
SUITE = """
import pytest
from neuropod_core.packaging import new_package
from neuropod_core.testing import BackendTests, StandardModel

class MadeSuite(BackendTests):
    platform = "made"
    known_gaps = {"test_results_have_their_names": "it has one output"}
    @pytest.fixture
    def write_model(self):
        def write(model, problem, path):
            with new_package("made", neuropod_path=path, model_name="m", problem=problem) as new:
                (new.folder / "data").mkdir()
        return write
"""


def installed(site: Path, plugin: str = PLUGIN, suite: str = SUITE, tests: str = "made = made_suite:MadeSuite") -> None:
    site.joinpath("made_plugin.py").write_text(plugin)
    site.joinpath("made_suite.py").write_text(suite)
    facts = site / "made-4.5.dist-info"
    facts.mkdir()
    facts.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 4.5\n")
    facts.joinpath("entry_points.txt").write_text(
        f"[neuropod.backends]\nmade = made_plugin\n[neuropod.tests]\n{tests}\n"
    )


def checked(site: Path, *arguments: str, chosen: str = "") -> tuple[int, dict[str, Any], str]:
    """Run the command; `chosen` picks checks, by a variable that pytest itself reads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEUROPOD_")}
    environment = kept | {"PYTHONPATH": str(site), "PYTEST_ADDOPTS": f"-k '{chosen}'" if chosen else ""}
    ran = subprocess.run([*COMMAND, *arguments, "--json"], env=environment, capture_output=True, check=False)
    return ran.returncode, json.loads(ran.stdout), ran.stderr.decode()


def test_check_runs_the_suite_that_a_plugin_ships(tmp_path: Path) -> None:
    installed(tmp_path)

    code, document, _ = checked(
        tmp_path, "Made", "--report", str(tmp_path / "r.json"), chosen="closed_model_says or names or unknown_option"
    )

    (suite,) = document["suites"]
    assert code == 0
    assert (suite["suite"], suite["distribution"], suite["version"]) == ("made_suite:MadeSuite", "made", "4.5")
    assert "test_an_unknown_option_is_refused[standard]" in suite["passed"]
    assert suite["known_gaps"] == [{"check": "test_results_have_their_names", "reason": "it has one output"}]
    assert json.loads((tmp_path / "r.json").read_text()) == document


CRASH = "import os, sys; 'cuda' in options.device and os.abort(); return Same()"


def test_check_counts_a_crash_of_the_process_as_a_failure_and_goes_on(tmp_path: Path) -> None:
    plugin = PLUGIN.replace("Trust.DATA, dtypes", 'Trust.DATA, devices=("cpu", "cuda"), dtypes')
    installed(tmp_path, plugin.replace("return Same()", CRASH))

    code, document, _ = checked(tmp_path, "made", chosen="absent_device or closed_model_says")

    (suite,) = document["suites"]
    assert code == 1
    assert suite["passed"] == ["test_a_closed_model_says_so[standard]"]
    (failed,) = suite["failed"]
    assert failed == {
        "check": "test_an_absent_device_is_refused[standard]",
        "reason": "the process was ended by SIGABRT",
    }


def test_check_names_the_checks_of_a_suite_in_which_the_process_always_crashes(tmp_path: Path) -> None:
    installed(tmp_path, PLUGIN.replace("return Same()", "import os; os.abort()"))

    code, document, _ = checked(tmp_path, "made", chosen="absent_device or closed_model_says")

    assert code == 4
    assert document["error"]["message"].count("the process was ended by SIGABRT") == 2
    assert "the suite crashed: in test_an_absent_device_is_refused[standard], the" in document["error"]["message"]


def test_check_runs_the_suite_in_workers(tmp_path: Path) -> None:
    results = '{"sum": inputs["x"] + inputs["y"], "difference": inputs["x"] - inputs["y"]}'
    added = PLUGIN.replace('{name: inputs["x"].copy() for name in outputs or ["y"]}', results)
    assert results in added
    installed(tmp_path, added)

    code, document, _ = checked(tmp_path, "made", "--placement", "worker", chosen="worker_gives or closed_model_says")

    (suite,) = document["suites"]
    assert (code, suite["failed"]) == (0, [])
    assert (suite["platform"], suite["distribution"], suite["version"]) == ("made", "made", "4.5")
    assert "test_a_worker_gives_what_this_process_gives[standard]" in suite["passed"]
    assert "test_a_closed_model_says_so[standard]" in suite["passed"]


def test_check_exits_with_1_and_tells_what_failed(tmp_path: Path) -> None:
    installed(tmp_path, plugin="print('hello')\n" + PLUGIN)

    code, document, _ = checked(tmp_path, "made", chosen="descriptor_changes_nothing")

    (suite,) = document["suites"]
    assert code == 1
    assert [case["check"] for case in suite["failed"]] == ["test_descriptor_changes_nothing"]
    assert "hello" in suite["failed"][0]["reason"]


@pytest.mark.parametrize(
    ("how", "arguments", "message"),
    [
        ({"plugin": "import not_there\n"}, ("made",), "plugin made 4.5 is broken"),
        ({"tests": ""}, ("made",), "made 4.5 ships no conformance suite"),
        (
            {"suite": "import not_there\n"},
            ("made",),
            "the suite did not run: ModuleNotFoundError: No module named 'not_there'",
        ),
        ({}, ("made", "--suite", "made_suite"), "'made_suite' names no class"),
        ({}, ("made", "--suite", "made_suite:Nothing"), "the suite did not run: AttributeError"),
        ({}, ("nobody",), "no installed plugin or platform is named 'nobody'"),
    ],
    ids=["broken", "none", "unimportable", "no class", "wrong class", "nobody"],
)
def test_check_tells_why_it_cannot_run(
    how: dict[str, str], arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    installed(tmp_path, **how)

    code, document, _ = checked(tmp_path, *arguments)

    assert code == 4
    assert message in document["error"]["message"]


def test_check_shows_what_pytest_says_when_asked(tmp_path: Path) -> None:
    installed(tmp_path)

    code, _, said = checked(tmp_path, "made", "-v", chosen="unknown_option")

    assert code == 0
    assert "test_an_unknown_option_is_refused[standard] PASSED" in said
