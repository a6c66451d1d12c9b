"""The conformance suite on a backend of pure NumPy: what it asks can be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import Problem
from neuropod_core.packaging import new_package
from neuropod_core.testing import BackendTests, StandardModel, WriteModel


class TestCalc(BackendTests):
    platform = "calc"
    known_gaps = {
        "test_a_closed_model_is_freed": "the double keeps its executors, so that tests can look"
    } | dict.fromkeys(
        (
            "test_descriptor_changes_nothing",
            "test_descriptor_imports_no_framework",
            "test_loading_does_no_more_than_its_trust_class",
        ),
        "the plugin is registered in this process only, and the check starts another",
    )

    @pytest.fixture(autouse=True)
    def registered(self, calc: Any) -> None:
        del calc

    @pytest.fixture
    def write_model(self) -> WriteModel:
        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            with new_package("calc", neuropod_path=path, model_name=model.value, problem=problem) as new:
                (new.folder / "data").mkdir()
                (new.folder / "data" / "model.json").write_text(json.dumps({"function": model.value}))

        return write


def test_a_gap_that_names_no_check_is_refused() -> None:
    with pytest.raises(TypeError, match="names 'test_nothing', which is no check"):
        type("Wrong", (BackendTests,), {"known_gaps": {"test_nothing": "because"}})


def test_an_overridden_check_is_refused() -> None:
    with pytest.raises(TypeError, match="overrides 'test_less_trust_is_refused'"):
        type("Wrong", (BackendTests,), {"test_less_trust_is_refused": lambda self: None})


def test_checks_of_any_model_run_on_the_sample_where_a_framework_does_not_add() -> None:
    subjects: dict[type, list[str]] = {}

    class Collected:
        fixturenames = ("subject",)

        def parametrize(self, _: str, values: list[str], **__: object) -> None:
            subjects[self.kind] = values

        def __init__(self, kind: type[BackendTests]) -> None:
            self.kind = kind
            kind().pytest_generate_tests(self)  # type: ignore[arg-type]  # as much of a Metafunc as is asked for

    class Adds(BackendTests):
        sample = None  # type: ignore[assignment]  # any attribute of this name says that there is one

    class DoesNotAdd(Adds):
        not_expressible = {StandardModel.ADD: "trees do not add"}

    for kind in (BackendTests, Adds, DoesNotAdd):
        Collected(kind)

    assert list(subjects.values()) == [["standard"], ["standard", "sample"], ["sample"]]


def test_a_framework_that_expresses_nothing_shows_expected_failures_only(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from neuropod_core.testing import BackendTests, StandardModel\n"
        "class TestNothing(BackendTests):\n"
        "    platform = 'nothing'\n"
        "    not_expressible = dict.fromkeys(StandardModel, 'there is none')\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "-k",
        "buffer or sizes",
    ]

    ran = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "3 xfailed" in ran.stdout
