"""The support table of README.md says what the plugins declare; `nox -s support` writes it from the suites' reports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITES = {f"{path.parent.name}.{path.stem}": path for path in ROOT.glob("plugins/*/src/*/conformance*.py")}
TABLE = re.compile(r"(?s)<!-- support: written by nox -s support -->\n(.*?)<!-- end of support -->")


def declared(suite: Path) -> tuple[str, set[str]]:
    """Read the platform and the known gaps of a suite, those of some releases of the framework too."""
    platform, gaps = "", set()
    for node in ast.walk(ast.parse(suite.read_text())):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(target, ast.Name) or node.value is None:
            continue
        if target.id == "platform":
            platform = ast.literal_eval(node.value)
        if target.id == "known_gaps":
            texts = [ast.literal_eval(part) for part in ast.walk(node.value) if isinstance(part, ast.Dict)]
            gaps |= {f"`{check}`: {reason}" for text in texts for check, reason in text.items()}
    return platform, gaps


def table() -> dict[str, set[str]]:
    """Read the table: platform -> all gaps that it names."""
    found = TABLE.search((ROOT / "README.md").read_text())
    assert found
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[1].splitlines()[2:]]
    gaps: dict[str, set[str]] = {}
    for platform, _, _, _, known, _ in rows:
        gaps.setdefault(platform.strip("`"), set()).update(set() if known == "none" else known.split("; "))
    return gaps


def test_table_names_every_platform() -> None:
    assert table().keys() == {declared(suite)[0] for suite in SUITES.values()}
    assert {name.partition(".")[0] for name in SUITES} == {
        path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")
    }


@pytest.mark.parametrize("plugin", sorted(SUITES))
def test_table_names_the_gaps_that_a_plugin_declares(plugin: str) -> None:
    platform, gaps = declared(SUITES[plugin])

    assert table()[platform] == gaps
