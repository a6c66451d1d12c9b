from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def listed(start: Start) -> dict[tuple[str, str], dict[str, Any]]:
    out, _ = start("plugins", "--json").communicate(timeout=60)
    return {(plugin["platform"], plugin["distribution"]): plugin for plugin in json.loads(out)["plugins"]}


def test_plugins_tells_what_each_offers(listed: dict[tuple[str, str], dict[str, Any]]) -> None:
    double = listed["double", "neuropod-double"]

    assert (double["status"], double["version"], double["trust"]) == ("ok", "1.2", "graph")
    assert double["options"] == {"factor": "multiplies"}
    assert double["packagers"] == {"create_double_neuropod": "neuropod_double:create"}
    assert double["error"] is None


@pytest.mark.parametrize(
    ("platform", "distribution", "status", "reason"),
    [
        ("shattered", "neuropod-broken", "broken", "importing no_such_module raised ModuleNotFoundError"),
        ("barred", "neuropod-barred", "blocked", "environment variable NEUROPOD_BLOCKED_PLUGINS"),
        ("contested", "neuropod-rival", "conflict", "2 plugins claim platform 'contested'"),
        ("contested", "neuropod-double", "conflict", "choose one by --backend 'neuropod-double'"),
        ("unframed", "neuropod-double", "no-framework", "run: pip install no-such-framework"),
    ],
)
def test_plugins_tells_what_is_wrong(
    platform: str, distribution: str, status: str, reason: str, listed: dict[tuple[str, str], dict[str, Any]]
) -> None:
    plugin = listed[platform, distribution]

    assert plugin["status"] == status
    assert reason in plugin["error"]["message"]


def test_plugins_gives_one_record_a_line(start: Start) -> None:
    out, _ = start("plugins", "list").communicate(timeout=60)

    assert (
        b"plugin\tdouble\tneuropod-double\t1.2\tok\t\tgraph\tcpu\tfactor\tcreate_double_neuropod\n" in out
    )  # fmt: skip


def test_plugins_imports_no_framework_and_info_none_either(start: Start) -> None:
    process = start("-v", "plugins", "--json", env={"PYTHONPROFILEIMPORTTIME": "1"})
    _, err = process.communicate(timeout=60)

    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in err.decode().splitlines()}
    assert "neuropod_core" in imported
    assert not imported & {"torch", "tensorflow", "onnxruntime", "keras", "jax", "sklearn"}
