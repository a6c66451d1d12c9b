from __future__ import annotations

import errno
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import Result

from neuropod_core import sandbox

Invoke = Callable[..., Result]
CONFIG = {"name": "locked", "platform": "double", "input_spec": [], "output_spec": []}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Give a package with a lock of one wheel, and the wheel inside."""
    path, described = tmp_path / "locked.neuropod", "one-1.0.dist-info"
    wheel = path / "0" / "wheels" / "one-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one.py", "NUMBER = 1\n")
        archive.writestr(f"{described}/METADATA", "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
        archive.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{described}/RECORD", f"one.py,,\n{described}/RECORD,,\n")
    digest = sha256(wheel.read_bytes()).hexdigest()
    (path / "0" / "pylock.toml").write_text(
        'lock-version = "1.0"\n[[packages]]\nname = "one"\nversion = "1.0"\n'
        f'wheels = [{{ name = "{wheel.name}", hashes = {{ sha256 = "{digest}" }} }}]\n'
    )
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def test_build_makes_an_environment_that_list_shows_and_prune_removes(package: Path, invoke: Invoke) -> None:
    first = invoke("env", "build", package, "--trust", "code", "--offline", "--json")
    again = invoke("env", "build", package, "--trust", "code", "--offline")
    listed = invoke("env", "list")
    kept = invoke("env", "prune", "--json")
    pruned = invoke("env", "prune", "--all", "--json")
    document = json.loads(first.stdout)
    told = dict(line.split("\t") for line in again.stdout.splitlines())

    assert [run.exit_code for run in (first, again, listed, kept, pruned)] == [0] * 5, first.stderr
    assert (document["built"], told["built"]) == (True, "False")
    assert "making a virtual environment" in first.stderr
    assert again.stderr == ""
    assert listed.stdout.split("\t")[:4] == ["environment", document["key"], "locked", document["python"]]
    assert listed.stdout.split("\t")[5] == "ready"
    assert json.loads(kept.stdout) == {"environments": [], "wheels": 0, "stuck": []}
    assert [gone["key"] for gone in json.loads(pruned.stdout)["environments"]] == [document["key"]]
    assert invoke("env", "list").stdout == ""
    assert not Path(document["folder"]).exists()


def test_interpreter_of_what_was_built_runs(package: Path, invoke: Invoke) -> None:
    built = json.loads(invoke("env", "build", package, "--trust", "code", "--python", sys.executable, "--json").stdout)
    ran = subprocess.run([built["executable"], "-c", "import one; print(one.NUMBER)"], check=True, capture_output=True)

    assert ran.stdout.strip() == b"1"


def test_build_wants_trust(package: Path, invoke: Invoke) -> None:
    result = invoke("env", "build", package)

    assert result.exit_code == 5
    assert "--trust 'code'" in result.stderr


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (lambda package: (package / "0" / "pylock.toml").unlink(), 4, "lock"),
        (lambda package: next(package.glob("0/wheels/*")).write_bytes(b"x"), 4, "hash"),
        (lambda package: next(package.glob("0/wheels/*")).unlink(), 4, "offline"),
        (lambda package: (package / "0" / "pylock.toml").write_text("?"), 3, None),
    ],
    ids=["no lock", "another wheel", "no wheel", "no TOML"],
)
def test_build_tells_what_is_missing(
    change: Callable[[Path], object], code: int, reason: str | None, package: Path, invoke: Invoke
) -> None:
    change(package)
    result = invoke("env", "build", package, "--trust", "code", "--offline", "--json")

    assert result.exit_code == code
    assert json.loads(result.stdout)["error"].get("reason") == reason


def test_export_writes_wheels_beside_the_package(package: Path, invoke: Invoke, tmp_path: Path) -> None:
    beside = invoke("env", "export", package)
    there = invoke("env", "export", package, "--to", tmp_path / "there", "--json")
    name = "one-1.0-py3-none-any.whl"

    assert beside.stdout.split("\t")[:2] == ["wheel", str(tmp_path / "locked.neuropod.wheels" / name)]
    assert json.loads(there.stdout)["wheels"][0]["path"] == str(tmp_path / "there" / name)
    assert (tmp_path / "there" / name).is_file()
    assert (tmp_path / "locked.neuropod.wheels" / name).is_file()


def test_failed_build_leaves_nothing_to_list(package: Path, invoke: Invoke) -> None:
    next(package.glob("0/wheels/*")).unlink()
    failed = invoke("env", "build", package, "--trust", "code", "--offline")
    listed = invoke("env", "list")

    assert failed.exit_code == 4
    assert listed.stdout == ""


def test_failed_export_leaves_no_folder(package: Path, invoke: Invoke, tmp_path: Path) -> None:
    next(package.glob("0/wheels/*")).write_bytes(b"another")
    failed = invoke("env", "export", package, "--to", tmp_path / "there")

    assert failed.exit_code == 4
    assert not (tmp_path / "there").exists()
    assert invoke("env", "list").stdout == ""


def test_prune_tells_what_it_cannot_remove(package: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    built = json.loads(invoke("env", "build", package, "--trust", "code", "--offline", "--json").stdout)

    def read_only(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:  # The tests may run as a user to whom no folder is read-only.
        patch.setattr("neuropod_core.environments._store.Place._opened", read_only)
        pruned = invoke("env", "prune", "--all", "--json")

    assert pruned.exit_code == 1
    assert json.loads(pruned.stdout)["stuck"] == [str(Path(built["folder"]).parent)]
    assert f"{Path(built['folder']).parent} cannot be removed" in pruned.stderr
    assert invoke("env", "prune", "--all").exit_code == 0


def test_build_warns_of_a_lock_without_numpy(package: Path, invoke: Invoke) -> None:
    result = invoke("env", "build", package, "--trust", "code", "--offline")

    assert result.exit_code == 0
    assert "warning: the lock has no numpy" in result.stderr


def test_sandbox_tells_what_it_enforces(invoke: Invoke) -> None:
    report = sandbox.available()
    result = invoke("env", "sandbox")
    document = json.loads(invoke("env", "sandbox", "--json").stdout)

    assert result.exit_code == (0 if report.complete else 1)
    assert document["complete"] is report.complete
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        *["enforced"] * len(report.enforced),
        *["missing"] * len(report.missing),
    ]
