"""The code of the pages that need no framework runs, and prints what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if path.parent.name not in ("packaging", "reference") and path.name not in ("index.md", "trust.md")
)


# Pages that show no code to run.
PROSE = {"errors.md", "plugins/contract.md", "zoo.md"}


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_as_written(page: str, run_page: Callable[[str], Any]) -> None:
    assert bool(run_page(page).executed) == (page not in PROSE)
