"""Plugins and examples use what anybody may use: names of the core without an underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AUTHORS = sorted(path for folder in ("plugins/*", "examples/*") for path in ROOT.glob(f"{folder}/src"))


def imported_from_core(source: str) -> Iterator[str]:
    """Give the dotted path of everything that a module imports from the core."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "neuropod_core")


def is_private(path: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in path.split("."))


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from neuropod_core import Backend", False),
        ("from neuropod_core import __version__", False),
        ("from neuropod_core import _cache", True),
        ("from neuropod_core.tensors import _fits", True),
        ("import neuropod_core._cache as cache", True),
        ("from ._tensors import owned", False),
    ],
)
def test_private_imports_are_seen(source: str, private: bool) -> None:
    assert any(map(is_private, imported_from_core(source))) is private


@pytest.mark.parametrize("author", AUTHORS, ids=lambda path: path.parent.name)
def test_author_imports_public_names_only(author: Path) -> None:
    imported = {(file.name, name) for file in author.rglob("*.py") for name in imported_from_core(file.read_text())}

    assert {(file, name) for file, name in imported if is_private(name)} == set()


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/neuropod_*/src")), ids=lambda path: path.parent.name)
def test_an_example_fits_on_a_few_pages(example: Path) -> None:
    files = [file for file in example.rglob("*.py") if file.name != "conformance.py"]

    assert sum(len(file.read_text().splitlines()) for file in files) < 150
