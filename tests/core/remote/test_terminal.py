"""What the commands show of a transfer."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

COMMAND = [sys.executable, "-m", "neuropod_core.cli"]


def test_info_reads_little_of_what_lies_elsewhere(server: Any, large: bytes) -> None:
    server.files["m"] = large

    ran = subprocess.run([*COMMAND, "info", server.url("m"), "--json"], check=True, capture_output=True, text=True)

    document = json.loads(ran.stdout)
    assert document["package"] == server.url("m")
    assert document["container"] == "zip"
    assert document["manifest"] == {"status": "not verified"}
    assert server.sent < 110_000 < len(large)
    assert ran.stderr == ""


def test_info_fetches_and_verifies_when_it_is_asked_to(server: Any, large: bytes) -> None:
    server.files["m"] = large

    ran = subprocess.run([*COMMAND, "info", "--verify", server.url("m")], check=True, capture_output=True, text=True)

    assert "manifest\tverified" in ran.stdout
    assert server.sent > len(large)


def test_a_transfer_is_shown_on_a_terminal(server: Any, large: bytes, tmp_path: Path) -> None:
    server.files["m"] = large
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "info", "--verify", server.url("m")],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(theirs)
    received = b""
    try:
        while piece := os.read(ours, 1 << 16):
            received += piece
    except OSError:  # Linux says so when the other side is closed.
        pass
    os.close(ours)

    assert process.wait(timeout=60) == 0
    assert f"fetching {server.url('m')}".encode() in received


def test_a_transfer_that_fails_is_one_line_and_code_3(server: Any, small: bytes) -> None:
    server.files["m"], server.cut_after = small, 0

    ran = subprocess.run([*COMMAND, "verify", server.url("m")], check=False, capture_output=True, text=True)

    assert ran.returncode == 3
    assert "the connection ended after 0 of" in ran.stdout
