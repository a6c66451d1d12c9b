from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuropod_core import InterpreterError
from neuropod_core.environments import Python, python_for, python_of

VERSIONS = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())) / "versions"
OTHERS = [path for path in sorted(VERSIONS.glob("3.1[0-3].*")) if f"3.{sys.version_info[1]}." not in path.name]
OLD = next(iter(sorted(VERSIONS.glob("3.[89].*"))), None)
needs_another = pytest.mark.skipif(not OTHERS, reason="one Python alone is here")

if sys.platform == "win32":
    pytest.skip("folders of POSIX", allow_module_level=True)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an empty virtual environment of this Python."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def add(venv: Path, name: str) -> Path:
    """Let a distribution seem installed, as an installer does: by a folder."""
    (site,) = venv.glob("lib/python*/site-packages")
    added = site / f"{name}.dist-info"
    added.mkdir()
    return added


def test_python_of_the_current_interpreter_is_what_runs() -> None:
    python = python_of(sys.executable)

    assert python.version == ".".join(map(str, sys.version_info[:3]))
    assert python.implementation == sys.implementation.name
    assert (python.prefix, python.base_prefix) == (Path(sys.prefix), Path(sys.base_prefix))
    assert python.has("NumPy")
    assert python.has("neuropod_core")
    assert str(python.executable) in str(python)


def test_python_of_a_folder_is_that_of_the_environment(venv: Path) -> None:
    python = python_of(venv)

    assert python.executable == venv / "bin" / "python"
    assert python.prefix == venv
    assert not python.has("numpy")
    assert python == python_of(venv / "bin" / "python")


def test_python_of_a_relative_path_is_absolute(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(venv.parent)

    assert python_of("venv").executable.is_absolute()


def test_python_is_run_once_until_something_is_installed(venv: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    real = venv / "bin" / "python"
    spy = venv / "bin" / "spy"
    spy.write_text(f'#!/bin/sh\necho run >>"{log}"\nexec "{real}" "$@"\n')
    spy.chmod(0o755)
    first, again = python_of(spy), python_of(spy)
    runs = len(log.read_text().split())
    added = add(venv, "Later_On-2.5")
    later = python_of(spy)

    assert first is again
    assert runs == 1
    assert (first.has("later-on"), later.distributions["later-on"]) == (False, "2.5")
    added.rmdir()


def test_environment_variables_do_not_reach_it(venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not me')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    link = venv / "bin" / "fresh"
    link.symlink_to("python")

    assert python_of(link).version


@pytest.mark.parametrize("kind", ["nothing", "folder", "text", "failing", "hollow"])
def test_what_is_no_interpreter_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "python"
    if kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.write_text(
            {"text": "text", "failing": "#!/bin/sh\necho broken >&2\nexit 3\n", "hollow": "#!/bin/sh\n"}[kind]
        )
        path.chmod(0o755)
    with pytest.raises(InterpreterError) as caught:
        python_of(path)

    assert str(path) in caught.value.asked
    assert caught.value.there
    if kind == "failing":
        assert "exit code 3, 'broken'" in str(caught.value)


@pytest.mark.skipif(OLD is None, reason="no old Python is here")
def test_old_python_is_refused() -> None:
    assert OLD is not None
    with pytest.raises(InterpreterError, match=r"Python 3\.10 or later \(found: 3\.[89]"):
        python_of(OLD)


def test_current_python_comes_first() -> None:
    assert python_for("").executable == Path(sys.executable)
    assert python_for(f"=={sys.version_info[0]}.{sys.version_info[1]}.*").executable == Path(sys.executable)


@needs_another
def test_python_of_pyenv_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    other = OTHERS[-1]

    assert python_for(f"=={other.name}").base_prefix == other


@needs_another
def test_python_on_the_path_comes_before_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = OTHERS[-1]
    minor = ".".join(other.name.split(".")[:2])
    (tmp_path / f"python{minor}").symlink_to(other / "bin" / f"python{minor}")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert python_for(f"=={other.name}").executable.parent == tmp_path


@needs_another
def test_shim_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = OTHERS[-1]
    shim = tmp_path / f"python{'.'.join(other.name.split('.')[:2])}"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert python_for(f"=={other.name}").base_prefix == other


@needs_another
def test_python_with_an_objection_is_passed_over() -> None:
    def refuse(python: Python) -> str:
        return "" if python.version == OTHERS[0].name else "not that one"

    assert python_for("", refuse).version == OTHERS[0].name


def test_range_that_none_is_in_names_those_that_are_there() -> None:
    with pytest.raises(InterpreterError) as caught:
        python_for(">=3.99", at="the lock")

    there = " ".join(caught.value.there)
    assert sys.executable in there
    assert all(str(other) in there for other in OTHERS)
    assert str(caught.value).startswith("no Python that fits >=3.99 (found: ")


def test_facts_survive_json() -> None:
    python = python_of(sys.executable)

    assert Python.from_facts(python.facts()) == python


def test_pythons_are_found_without_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(shutil.which("sh") or "/bin/sh").parent))

    assert python_for("").executable == Path(sys.executable)


@pytest.mark.parametrize("requires", [">=3.94", "===here/python"])
def test_nothing_in_the_current_folder_is_tried(requires: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path / ".venv" / "bin", tmp_path / "===here"):
        place.mkdir(parents=True)
        (place / "python").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        (place / "python").chmod(0o755)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InterpreterError):
        python_for(requires)
    assert not (tmp_path / "ran").exists()
