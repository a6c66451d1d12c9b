"""What holds for every test of the repository, in `tests/` and beside the plugins."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_configure() -> None:
    """Refuse to test anything but an installed core, and under tox anything but wheels."""
    core = find_spec("neuropod_core")
    # Without an installation, the folder neuropod_core/ of the checkout passes for an empty package.
    if core is None or core.origin is None:
        pytest.exit("neuropod_core is not installed here; run: nox -s dev", returncode=4)
    if "TOX_ENV_NAME" in os.environ and Path(core.origin).is_relative_to(ROOT / "neuropod_core"):
        pytest.exit("tox tests wheels, but neuropod_core comes from the checkout; run: tox --recreate", returncode=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where the machine has none."""
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
