"""Shell completion, by the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]
Complete = Callable[[str], list[str]]

SCRIPT = Path(sys.executable).with_name("neuropod")
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the command is not installed")


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Give an environment in which a shell finds the command and some packages."""
    (tmp_path / "digits.neuropod").touch()
    return environment | {"PATH": f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}


@pytest.fixture
def complete(shell: dict[str, str], tmp_path: Path) -> Complete:
    """Give the function that asks bash what follows a line."""

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        program = f"""
            eval "$(neuropod completion bash)"
            COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}
            _neuropod_completion neuropod
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        ran = subprocess.run(
            [str(BASH), "--norc", "-c", program], check=True, cwd=tmp_path, env=shell, capture_output=True, text=True
        )
        return ran.stdout.split()

    return completed


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("neuropod ver", {"verify"}),
        ("neuropod run m --ca", {"--cast"}),
        ("neuropod run m --trust ", {"data", "graph", "code", "sandboxed"}),
        ("neuropod pack dou", {"double"}),
        ("neuropod run m --backend neuropod-d", {"neuropod-double"}),
        ("neuropod plugins show neuropod-r", {"neuropod-rival"}),
        ("neuropod plugins show cont", {"contested"}),
        ("neuropod completion f", {"fish"}),
    ],
)
def test_bash_is_offered(line: str, offered: set[str], complete: Complete) -> None:
    assert set(complete(line)) == offered


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize("command", ["info dig", "run --no-checks dig", "verify other dig", "pack onnx dig"])
def test_bash_completes_packages_when_tab_is_pressed(command: str, shell: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(BASH), "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env=shell | {"PS1": "ready ", "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        os.write(ours, b'eval "$(neuropod completion bash)"; echo lo"ad"ed\n')
        assert "loaded" in heard(ours, "loaded")
        os.write(ours, f"neuropod {command}\t".encode())
        assert f"neuropod {command}its.neuropod" in heard(ours, r"its\.neuropod")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def heard(descriptor: int, pattern: str) -> str:
    """Read from a terminal until `pattern` is there, or nothing comes any more."""
    text = ""
    while not re.search(pattern, text) and select.select([descriptor], [], [], 30)[0]:
        text += os.read(descriptor, 4096).decode()
    return text


def test_completion_imports_no_plugin(complete: Complete) -> None:
    assert "shattered" in complete("neuropod pack sh")  # One that cannot be imported.


ZSH = """
autoload -Uz compinit && compinit -u -D
eval "$(neuropod completion zsh)"
compadd() { [[ $1 == -V ]] && print -l -- "${completions[@]}" ; }
_describe() { print -l -- "${completions_with_descriptions[@]}" }
words=(neuropod pack dou) CURRENT=3
_neuropod_completion
"""
FISH = "neuropod completion fish | source; complete -C 'neuropod pack dou'"


@pytest.mark.parametrize(("name", "program"), [("zsh", ZSH), ("fish", FISH)])
def test_other_shells_are_offered_platforms(name: str, program: str, shell: dict[str, str], tmp_path: Path) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    ran = subprocess.run([path, "-c", program], check=False, cwd=tmp_path, env=shell, capture_output=True, text=True)

    assert "double" in ran.stdout, ran.stderr


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_scripts_are_printed_for_the_command(name: str, invoke: Invoke) -> None:
    result = invoke("completion", name)

    assert result.exit_code == 0
    assert f"_NEUROPOD_COMPLETE={name}_complete" in result.stdout


def test_an_unknown_shell_is_refused(invoke: Invoke) -> None:
    assert invoke("completion", "tcsh").exit_code == 2
