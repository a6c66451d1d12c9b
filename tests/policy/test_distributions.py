"""Each distribution is whole by itself: what it ships, what it says about itself, what it admits."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = [ROOT / "neuropod_core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

each_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda path: path.name)
each_plugin = pytest.mark.parametrize("plugin", DISTRIBUTIONS[1:], ids=lambda path: path.name)


@cache
def project(distribution: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((distribution / "pyproject.toml").read_text())["project"]
    return loaded


def test_there_are_plugins() -> None:
    assert len(DISTRIBUTIONS) > 1


@each_distribution
@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "LICENSE", "changes/.gitignore"])
def test_distribution_has_file(distribution: Path, file: str) -> None:
    assert (distribution / file).is_file()


@each_distribution
def test_distribution_is_typed_and_lies_under_src(distribution: Path) -> None:
    assert (distribution / "src" / distribution.name / "py.typed").is_file()


@each_distribution
def test_licence_is_that_of_the_repository(distribution: Path) -> None:
    assert (distribution / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert project(distribution)["license"] == "Apache-2.0"


@each_distribution
def test_changelog_has_the_place_where_releases_go(distribution: Path) -> None:
    assert "\n<!-- release notes start -->\n" in (distribution / "CHANGELOG.md").read_text()


@each_distribution
def test_fragments_are_of_known_kinds(distribution: Path) -> None:
    kinds = {path.suffixes[-2] for path in (distribution / "changes").glob("*.md")}

    assert kinds <= {".breaking", ".feature", ".bugfix", ".doc"}


@each_distribution
def test_name_is_that_of_the_folder(distribution: Path) -> None:
    assert project(distribution)["name"] == distribution.name.replace("_", "-")


@each_distribution
def test_version_is_three_numbers(distribution: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", project(distribution)["version"])


@each_distribution
def test_classifiers_name_the_tested_pythons(distribution: Path) -> None:
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in project(distribution)["classifiers"] if line.startswith(prefix)]

    assert named == ["3", *PYTHONS]
    assert project(distribution)["requires-python"] == f">={PYTHONS[0]}"


@each_plugin
def test_plugin_admits_a_range_of_the_core(plugin: Path) -> None:
    (core,) = (line for line in project(plugin)["dependencies"] if line.startswith("neuropod-core"))

    assert re.fullmatch(r"neuropod-core>=\d+\.\d+(\.\d+)?,<\d+", core)


@each_plugin
def test_plugin_offers_modules_of_its_own(plugin: Path) -> None:
    modules = project(plugin)["entry-points"]["neuropod.backends"].values()

    assert modules
    assert all(module.split(".")[0] == plugin.name for module in modules)


def test_extras_that_texts_name_exist() -> None:
    offered = {project(path)["name"]: set(project(path).get("optional-dependencies", ())) for path in DISTRIBUTIONS}
    texts = [file.read_text() for path in DISTRIBUTIONS for file in (*path.rglob("src/**/*.py"), path / "README.md")]
    named = {match.groups() for text in texts for match in re.finditer(r"(neuropod-[a-z]+)\[([a-z0-9,]+)\]", text)}

    assert named
    assert {
        (name, extra) for name, extras in named for extra in extras.split(",") if extra not in offered[name]
    } == set()
