"""A plugin made from the template works out of the box: from its wheel, with the oldest and the newest core."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

ROOT = Path(__file__).parents[2]
ANSWERS = {"distribution": "neuropod-two-trees", "author": "Ada Lovelace", "trust": "data", "framework": "numexpr"}
# The core is a third party there; `load` is given options that a plugin without any leaves alone.
RUFF = f"""
extend = "{ROOT / "pyproject.toml"}"
[lint]
extend-ignore = ["ARG002"]
[lint.isort]
known-first-party = ["neuropod_two_trees"]
"""


def generate(folder: Path, **answers: str) -> Path:
    copier.run_copy(str(ROOT / "template"), folder, data=ANSWERS | answers, defaults=True, quiet=True)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("made") / "project")


def run(folder: Path, *command: str, **environment: str) -> str:
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("TOX_", "PYTEST_"))}
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=outer | environment,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@pytest.mark.parametrize(("core", "tests"), [("oldest", "tests"), ("newest", "tests/test_two_trees.py")])
def test_project_passes_its_tests(project: Path, core: str, tests: str) -> None:
    wheels = os.environ["NEUROPOD_WHEELS"]
    links = f"{wheels} {os.environ.get('PIP_FIND_LINKS', '')}"
    newest = max(path.name.split("-")[1] for path in Path(wheels).glob("neuropod_core-*.whl"))

    said = run(project, "tox", "run", "-e", f"py311-{core}", "--", tests, PIP_FIND_LINKS=links)

    assert re.search(r"\d passed.* in", said)
    installed = run(project, "tox", "exec", "-qe", f"py311-{core}", "--skip-pkg-install", "--", "pip", "list")
    assert (newest in re.findall(r"neuropod-core +(\S+)", installed)) is (core == "newest")


def test_workflow_runs_the_environments_of_tox(project: Path) -> None:
    workflow: Any = yaml.safe_load((project / ".github" / "workflows" / "test.yml").read_text())
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]

    asked = {f"py{python.replace('.', '')}-{core}" for python in matrix["python"] for core in matrix["core"]}

    assert set(run(project, "tox", "list", "--no-desc", "-q").split()) == asked


@pytest.mark.parametrize("framework", ["", "numexpr"])
@pytest.mark.parametrize("trust", ["data", "code"])
def test_project_is_in_our_style(framework: str, trust: str, tmp_path: Path) -> None:
    generate(tmp_path / "project", framework=framework, trust=trust)
    (tmp_path / "ruff.toml").write_text(RUFF)

    run(tmp_path, "ruff", "check", "--no-cache", "--config", "ruff.toml", "project")
    run(tmp_path, "ruff", "format", "--no-cache", "--config", "ruff.toml", "--diff", "project")


def test_licence_is_that_of_the_repository(project: Path) -> None:
    assert (project / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("question", "answer"),
    [("distribution", "Neuropod Trees"), ("platform", "two-trees"), ("framework", "numexpr>=2"), ("author", '"')],
)
def test_answers_that_break_a_project_are_refused(question: str, answer: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=question):
        generate(tmp_path / "project", **{question: answer})
