"""The code of the pages that need plugins of frameworks runs, and prints what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuropod_core.plugins import backend_for

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["index.md", "guide/trust.md", *sorted(f"packaging/{path.name}" for path in DOCS.glob("packaging/*.md"))]


@pytest.mark.filterwarnings("ignore:.*Please switch to .torch.compile:DeprecationWarning")  # Its compiler uses them.
@pytest.mark.parametrize("page", PAGES)
def test_guide_runs_as_written(page: str, run_page: Callable[[str], Any]) -> None:
    assert run_page(page).executed


@pytest.mark.parametrize(
    ("platform", "page"),
    [("onnx", "onnx"), ("python", "python"), ("tensorflow", "tensorflow"), ("torchscript", "torchscript")],
)
def test_guide_names_every_option(platform: str, page: str) -> None:
    text = (DOCS / "packaging" / f"{page}.md").read_text("utf-8")

    assert [name for name in backend_for(platform).descriptor.options if name not in text] == []
