"""The command as users start it: terminals, pipes, signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from neuropod_core import Problem
from neuropod_core.cli import main

Write = Callable[..., Path]
Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]

SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
HOSTILE = b"\x1b[31m[bold]red"


def on_terminal(start: Start, *arguments: object, env: dict[str, str] | None = None) -> bytes:
    """Give what a terminal gets that is stdout and stderr of the command."""
    ours, its = pty.openpty()
    process = start(*arguments, stdout=its, stderr=its, env={"COLUMNS": "100"} | (env or {}))
    os.close(its)
    received = b""
    try:
        while piece := os.read(ours, 65536):
            received += piece
    except OSError:  # Linux says so when the other side is closed.
        pass
    os.close(ours)
    process.wait(timeout=60)
    return received.replace(b"\r\n", b"\n")


def test_a_terminal_gets_tables_and_colour(write: Write, start: Start) -> None:
    received = on_terminal(start, "verify", write())

    assert "╭".encode() in received
    assert b"\x1b[32mok" in received


def test_no_color_is_honoured_on_a_terminal(write: Write, start: Start) -> None:
    received = on_terminal(start, "info", write(), env={"NO_COLOR": "1"})

    assert "╭".encode() in received
    assert not re.search(rb"\x1b\[[0-9;]*m", received)


@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1"}], ids=str)
def test_a_pipe_gets_plain_lines(env: dict[str, str], write: Write, start: Start) -> None:
    package = write()

    for arguments in (["info", package], ["verify", package], ["plugins"], ["run", package, "--test-data"]):
        out, err = start(*arguments, env=env).communicate(timeout=60)
        assert out
        assert b"\x1b" not in out
        assert err == b""
        assert out.decode().replace("\n", "").replace("\t", "").isprintable()


def test_results_cannot_command_a_terminal(write: Write, start: Start) -> None:
    package = write("hostile", Problem.of({"x": "float32[N]"}, {"y": "string[?]"}))

    received = on_terminal(start, "run", package, "--test-data")

    assert HOSTILE not in received
    assert rb"\x1b[31m[bold]red[/bold]\x07" in SEQUENCE.sub(b"", received)


def test_descriptions_cannot_command_a_terminal(write: Write, start: Start) -> None:
    text = HOSTILE.decode() + "[/bold]\x07\u202e :smile:"
    problem = Problem.of(
        {"x": {"dtype": "float32", "shape": ["N"], "unit": text}}, {"y": "float32[N]"}, description=text
    )

    received = on_terminal(start, "info", write("double", problem))

    assert HOSTILE not in received
    assert b"[bold]red[/bold]" in received
    assert b":smile:" in received
    assert "\u202e".encode() not in received
    assert b"\x07" not in received


def test_a_terminal_without_unicode_gets_an_answer(write: Write, start: Start) -> None:
    problem = Problem.of({"x": {"dtype": "float32", "shape": ["N"], "unit": "µm"}}, {"y": "float32[N]"})

    received = on_terminal(start, "info", write("double", problem), env={"PYTHONIOENCODING": "ascii"})

    assert b"\\xb5m" in received
    assert received.isascii()


def test_a_closed_pipe_is_silent(write: Write, start: Start) -> None:
    with start("info", write(), "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", [["info", "nowhere", "--json"], ["run", "--json"]], ids=str)
def test_a_closed_pipe_is_silent_for_errors_too(arguments: list[str], start: Start) -> None:
    with start(*arguments, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        process.stdout.close()

    assert process.returncode in (2, 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error(write: Write, start: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        _, err = start("info", write(), stdout=full).communicate(timeout=60)

    assert err == b"error: the answer cannot be written: No space left on device\n"


def test_closed_streams_are_survived(write: Write, start: Start) -> None:
    package = write()
    process = start("run", package, "--test-data", preexec_fn=lambda: (os.close(1), os.close(2)))  # type: ignore[func-returns-value]  # both give None

    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_ctrl_c_ends_a_call_and_leaves_nothing_behind(write: Write, start: Start, tmp_path: Path) -> None:
    package = write("blocking", test=False)
    (tmp_path / "in.json").write_text('{"x": [1]}')
    before = sorted(path.name for path in tmp_path.iterdir())
    process = start("run", package, "--inputs", "in.json", "--save", "out.npz", "--json")
    assert process.stderr is not None
    assert process.stderr.readline() == b"running\n"

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err == b"error: interrupted\n"
    assert json.loads(out) == {"error": {"type": "Interrupted", "message": "interrupted"}}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == [
        name for name in before if name != "cache"
    ]
    assert list((tmp_path / "cache").glob("v1/unpacking/*")) == []


def test_help_is_fast_and_imports_neither_numpy_nor_rich(start: Start) -> None:
    process = start("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    out, err = process.communicate(timeout=60)

    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in err.decode().splitlines()}
    assert b"Exit codes:" in out
    assert "click" in imported
    assert not imported & {"numpy", "rich", "pluggy"}


def test_version_is_that_of_the_distribution(invoke: Invoke) -> None:
    import neuropod_core

    assert invoke("--version").stdout == f"neuropod {neuropod_core.__version__}\n"


@pytest.mark.parametrize("group", [[], ["cache"], ["env"]], ids=str)
def test_a_group_alone_shows_its_help_and_ends_with_code_2(group: list[str], invoke: Invoke) -> None:
    result = invoke(*group)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Usage: {' '.join(['neuropod', *group])} [OPTIONS]")
    assert "Commands:\n" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run"], ["run", "x", "--nonsense"], ["run", "x", "--repeat", "0"]]
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], invoke: Invoke) -> None:
    result = invoke(*arguments, "--json")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "--help" in result.stderr
    assert json.loads(result.stdout)["error"]["message"] in result.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_shows_a_traceback_that_is_printable(place: str, write: Write, invoke: Invoke) -> None:
    package = write("failing", test=False)
    arguments = ["run", str(package), "--inputs", "-"]

    result = invoke(*(["-v", *arguments] if place == "before" else [*arguments, "-v"]), stdin='{"x": [1]}')

    assert "Traceback (most recent call last)" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_bug_is_reported_as_one(write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: object) -> None:
        raise LookupError("nothing there")

    monkeypatch.setattr("neuropod_core.cli._results.to_json", failing)

    result = invoke("run", write(), "--test-data")

    assert result.exit_code == 70
    assert result.stderr == (
        "error: unexpected LookupError: nothing there; run again with -v and report the traceback\n"
    )


def test_a_model_that_exits_does_not_decide_the_exit_code(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write("exiting", test=False), "--inputs", "-", stdin='{"x": [1]}')

    assert result.exit_code == 6
    assert result.stderr == "error: a plugin or a model called exit(0)\n"


def test_the_command_names_the_extra_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys, "argv", ["neuropod", "plugins", "--json"])

    with pytest.raises(SystemExit) as exited:
        main()

    out, err = capsys.readouterr()
    assert exited.value.code == 4
    assert err == "error: the command line needs rich; run: pip install 'neuropod-core[cli]'\n"
    assert json.loads(out)["error"]["type"] == "ModuleNotFoundError"


def test_the_core_imports_nothing_of_the_command_line() -> None:
    code = "import sys, neuropod_core.loading, neuropod_core.packaging; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert not {"click", "rich", "neuropod_core.cli"} & set(ran.stdout.split())
