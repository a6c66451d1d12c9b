"""The tutorial shows the plugin that lies in examples/neuropod_echo: all of it, and nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ECHO = ROOT / "examples" / "neuropod_echo"
TUTORIAL = (ROOT / "docs" / "plugins" / "tutorial.md").read_text("utf-8")
BLOCK = re.compile(r'(?ms)^```\w+ title="(?P<file>[^"]+\.\w+)"\n(?P<code>.*?)^```$')
SHOWN = [
    "pyproject.toml",
    "tests/test_conformance.py",
    *sorted(f"src/neuropod_echo/{path.name}" for path in ECHO.glob("src/*/*.py")),
]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def shown() -> dict[str, str]:
    """Join the blocks of each file, as a reader does."""
    files: defaultdict[str, str] = defaultdict(str)
    for block in BLOCK.finditer(TUTORIAL):
        files[block["file"]] += block["code"]
    return files


def test_tutorial_shows_the_files_of_the_plugin() -> None:
    assert sorted(shown()) == sorted(SHOWN)


@pytest.mark.parametrize("file", SHOWN)
def test_tutorial_shows_a_file_as_it_is(file: str) -> None:
    assert lines(shown()[file]) == lines((ECHO / file).read_text("utf-8"))


def test_plugin_is_short() -> None:
    source = [path.read_text("utf-8") for path in ECHO.glob("src/*/*.py") if path.name != "conformance.py"]

    assert sum(text.count("\n") for text in source) < 150
