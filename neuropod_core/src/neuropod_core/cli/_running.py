"""A pytest plugin of `check`: writes down which test runs, for when its process does not come back."""

from __future__ import annotations

from pathlib import Path

__all__ = ["pytest_runtest_logstart"]


def pytest_runtest_logstart(nodeid: str) -> None:
    """Write the name of the test into the folder in which pytest was started."""
    Path(_FOLDER, "running").write_text(nodeid, "utf-8")


_FOLDER = Path.cwd()  # A test may leave it.
