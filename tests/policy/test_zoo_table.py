"""The table of the model zoo: how cells become lines, and that every line of the committed one is whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "zoo.md"


def cell(platform: str, **more: Any) -> dict[str, Any]:
    known = {"framework": "PyTorch", "model": "mlp", "shows": "two layers", "reason": "", "difference": None}
    return {**known, "platform": platform, "verdict": "cannot" if "reason" in more else "agrees", **more}


def written(folder: Path, *cells: dict[str, Any]) -> str:
    page, rows = folder / "zoo.md", folder / "rows"
    rows.mkdir()
    page.write_text("before\n<!-- zoo: written by nox -s zoo -->\nold\n<!-- end of zoo -->\nafter\n")
    for number, one in enumerate(cells):
        (rows / f"{number}.json").write_text(json.dumps(one))
    subprocess.run([sys.executable, ROOT / ".ci" / "zoo.py", page, rows], check=True)
    return page.read_text()


def test_table_has_a_line_for_a_model_and_a_reason_once(tmp_path: Path) -> None:
    text = written(
        tmp_path,
        cell("python", difference=0.0),
        cell("onnx", difference=3e-7),
        cell("tensorflow", reason="no export"),
        cell("tensorflow", reason="no export", model="cnn", shows="images"),
    )

    assert "old" not in text
    assert text.startswith("before\n") and text.endswith("<!-- end of zoo -->\nafter\n")  # noqa: PT018 - one frame
    assert "| PyTorch | `mlp` | two layers | 1e-6 | no (1) | exact |" in text
    assert "| PyTorch | `cnn` | images |  | no (1) |  |" in text
    assert text.count("1. no export") == 1


def test_committed_table_refers_to_reasons_that_are_there() -> None:
    text = PAGE.read_text("utf-8")
    reasons = set(re.findall(r"(?m)^(\d+)\. ", text))

    assert set(re.findall(r"no \((\d+)\)", text)) == reasons
    assert len(re.findall(r"(?m)^\| [\w-]+ \| `\w+` \|", text)) >= 29
