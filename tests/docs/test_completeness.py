"""The site says all that there is to say: every public name, hook, error, check and field has its place."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

import neuropod_core
from neuropod_core import Descriptor, Limits, errors, hookspecs
from neuropod_core.packaging import PackageArguments
from neuropod_core.testing import BackendTests, StandardModel

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
REFERENCE = set(
    re.findall(r"(?m)^::: (\S+)$", "".join(path.read_text("utf-8") for path in DOCS.glob("reference/*.md")))
)
# Documented by `neuropod --help`, and by the package that exports its names again.
ELSEWHERE = ("neuropod_core.cli", "neuropod_core.testing.strategies")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(neuropod_core.__path__, "neuropod_core.")
    if "._" not in module.name and "__main__" not in module.name and not module.name.startswith(ELSEWHERE)
)
HOOKS = [name for name in hookspecs.__all__ if hasattr(getattr(hookspecs, name), "neuropod_spec")]
CHECKS = [name for name in dir(BackendTests) if name.startswith("test_")]
EXAMPLE = re.compile(r"(?ms)^## (?P<name>\w+)$(?P<text>.*?)(?=^## |\Z)")


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_module_is_in_the_reference(module: str) -> None:
    assert module in REFERENCE


def test_reference_names_modules_that_exist() -> None:
    assert {name for name in REFERENCE if name.startswith("neuropod_core")} == set(MODULES)


@pytest.mark.parametrize("name", neuropod_core.__all__)
def test_public_name_is_in_the_reference(name: str) -> None:
    homes = [module for module in MODULES if name in getattr(import_module(module), "__all__", ())]

    assert set(homes) & REFERENCE


def test_there_are_hooks() -> None:
    assert "neuropod_backend" in HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_has_a_heading_with_its_arguments(hook: str) -> None:
    arguments = ", ".join(signature(getattr(hookspecs, hook)).parameters)

    assert f"\n## {hook}({arguments})\n" in page("plugins/hooks.md")


def test_catalogue_has_every_error_and_no_other() -> None:
    assert sorted(match["name"] for match in EXAMPLE.finditer(page("errors.md"))) == sorted(
        name for name in errors.__all__ if isinstance(getattr(errors, name), type)
    )


@pytest.mark.parametrize("entry", list(EXAMPLE.finditer(page("errors.md"))), ids=lambda match: match["name"])
def test_error_has_a_message_and_a_remedy(entry: re.Match[str]) -> None:
    if "Never itself" not in entry["text"]:
        assert re.search(r"(?s)```text\n[^\n]+\n```.*\*\*Remedy\.\*\*", entry["text"])


def test_checks_of_the_suite_are_listed_and_no_other() -> None:
    listed = re.findall(r"`(test_\w+)`", page("plugins/conformance.md").partition("## The checks")[2])

    assert sorted(listed) == sorted(CHECKS)


@pytest.mark.parametrize(
    ("names", "where"),
    [
        ([field.name for field in fields(Descriptor)], "plugins/tutorial.md"),
        ([field.name for field in fields(Limits)], "guide/environment.md"),
        (list(PackageArguments.__annotations__), "packaging/index.md"),
        ([model.name for model in StandardModel], "plugins/conformance.md"),
    ],
    ids=["descriptor", "limits", "arguments", "models"],
)
def test_table_has_every_name(names: list[str], where: str) -> None:
    rows = "\n".join(line for line in page(where).splitlines() if line.startswith("|"))

    assert [name for name in names if f"`{name}`" not in rows] == []


def test_limits_are_told_with_their_values() -> None:
    units = {1 << 20: "MiB", 1 << 40: "TiB"}
    rows = [line for line in page("guide/environment.md").splitlines() if line.startswith("|")]
    for field in fields(Limits):
        value = getattr(Limits(), field.name)
        unit = next((unit for unit in sorted(units, reverse=True) if value % unit == 0), 1)
        told = f"{value // unit} {units[unit]}" if unit > 1 else str(value)

        assert any(f"`{field.name}`" in row and told in row.replace("50 000", "50000") for row in rows), field.name


# ------------------------------------------------------------------------------------------------------------- links

FENCED = re.compile(r"(?ms)^```.*?^```$")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
OBJECT = re.compile(r"\]\[(?P<path>neuropod_core[\w.]*)\]")


def anchors(text: str) -> set[str]:
    """Give the anchors of the headings as the site makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", FENCED.sub("", text))
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("source", PAGES)
def test_links_lead_somewhere(source: str) -> None:
    for target in LINK.findall(FENCED.sub("", page(source))):
        file, _, anchor = target.partition("#")
        if ":" not in target:
            found = (DOCS / source).parent / file if file else DOCS / source
            assert found.is_file(), target
            assert not anchor or anchor in anchors(found.read_text("utf-8")), target


@pytest.mark.parametrize("source", PAGES)
def test_links_to_objects_lead_somewhere(source: str) -> None:
    for path in OBJECT.findall(page(source)):
        module, _, name = path.rpartition(".")

        assert module in REFERENCE
        assert name in import_module(module).__all__
