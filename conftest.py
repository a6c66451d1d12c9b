"""What holds for every test of the repository, in `tests/` and beside the plugins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


_SLOW_TO_START = ("torchscript", "torch_export", "torch_aoti", "tensorflow")
_ENOUGH = (
    "test_a_worker_gives_what_this_process_gives",
    "test_standard_models_give_in_a_worker_what_they_give_here",
    "test_a_failure_says_in_a_worker_what_it_says_here",
    "test_allocated_inputs_give_the_same",
    "test_numbers_come_back_as_they_went_in[float32]",
    "test_numbers_come_back_as_they_went_in[bfloat16]",
    "test_strings_of_one_dimension_come_back",
    "test_threads_get_the_answers_of_one",
    "test_results_outlive_the_model",
)
_MANY_STARTS = (
    "test_closed_models_give_their_memory_back",
    "test_closing_while_others_call_ends_their_calls",
    "test_models_leave_nothing_behind",
    "test_native_numbers_come_back_as_they_went_in",
)


def _takes_long(platform: str, check: str) -> bool:
    if platform == "torch_aoti":  # Each package is compiled first.
        return not check.startswith(_ENOUGH[0])
    if platform in _SLOW_TO_START:
        return not check.startswith(_ENOUGH)
    return check.startswith(_MANY_STARTS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most checks in workers that take seconds to start to the long run, and skip what needs a GPU."""
    for item in items:
        platform = getattr(getattr(item, "cls", None), "platform", "")
        if "InWorker" in item.nodeid and platform != "python" and _takes_long(platform, item.name):
            item.add_marker(pytest.mark.long)
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def zoo_row() -> Callable[..., None]:
    """Give the function that records one cell of the model zoo: one model on one platform.

    It takes `framework`, `model`, `shows` and `platform`, then the largest `difference` to the framework run by hand,
    or the `reason` why the platform cannot express the model. It writes where ``NEUROPOD_ZOO_REPORT`` names a folder,
    and ``nox -s zoo`` makes docs/zoo.md of what it wrote; elsewhere, a model that docs/zoo.md does not name fails.
    """

    def record(*, difference: float | None = None, reason: str = "", **cell: str) -> None:
        assert sorted(cell) == ["framework", "model", "platform", "shows"]
        assert (difference is None) == bool(reason), "a cell agrees or has a reason"
        named = f"| {cell['framework']} | `{cell['model']}` |" in (ROOT / "docs" / "zoo.md").read_text("utf-8")
        assert named or "NEUROPOD_ZOO_REPORT" in os.environ, "docs/zoo.md does not name this model; run: nox -s zoo"
        row: dict[str, Any] = {**cell, "verdict": "cannot" if reason else "agrees", "reason": reason}
        row["difference"] = None if difference is None else float(difference)
        if folder := os.environ.get("NEUROPOD_ZOO_REPORT"):
            name = "-".join((cell["framework"].lower(), cell["model"], cell["platform"]))
            Path(folder, f"{name}.json").write_text(json.dumps(row, indent=4, sort_keys=True) + "\n", "utf-8")

    return record
