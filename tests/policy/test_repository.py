"""The repository reads as a project on its own: what its texts name can be found in it."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = {".cfg", ".ini", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}

# Files that the repository talks about and does not hold: other formats' and users' own.
ELSEWHERE = {"PROVENANCE.md"}


@cache
def tracked() -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(path for path in map(Path, listed.stdout.split("\0")) if (ROOT / path).is_file())


def texts() -> list[Path]:
    return [path for path in tracked() if path.suffix in TEXT and path != Path(__file__).relative_to(ROOT)]


def test_there_are_texts() -> None:
    assert Path("README.md") in texts()


def test_texts_name_documents_that_exist() -> None:
    exist = {file.name for file in tracked()} | ELSEWHERE
    named = {path: set(re.findall(r"\b[A-Z]{3,}\.md\b", (ROOT / path).read_text())) for path in texts()}

    assert {str(path): names - exist for path, names in named.items() if names - exist} == {}


def test_texts_name_no_place_on_their_author_s_machine() -> None:
    place = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\S+")

    assert {str(path): found for path in texts() if (found := place.findall((ROOT / path).read_text()))} == {}
