from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from neuropod_core import plugins
from neuropod_core.packaging import repack

Write = Callable[..., Path]
Invoke = Callable[..., Result]


def with_file(package: Path, name: str, content: bytes, *, keep_manifest: bool = True) -> Path:
    """Write the archive again with one file changed."""
    with zipfile.ZipFile(package) as source:
        files = {entry: source.read(entry) for entry in source.namelist()}
    changed = package.with_name(f"changed-{package.name}")
    with zipfile.ZipFile(changed, "w") as target:
        for entry, data in (files | {name: content}).items():
            if keep_manifest or entry != "manifest.json":
                target.writestr(entry, data)
    return changed


def statuses(result: Result) -> list[dict[str, Any]]:
    packages = json.loads(result.stdout)["packages"]
    return [{step["step"]: step["status"] for step in package["steps"]} for package in packages]


def test_verify_takes_every_step(write: Write, invoke: Invoke) -> None:
    package = write()

    result = invoke("verify", package)

    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["step", str(package), "format", "ok", "double (double), 4 files"],
        ["step", str(package), "hashes", "ok", "3 files as the manifest says"],
        ["step", str(package), "load", "ok", "double"],
        ["step", str(package), "test", "ok", "largest difference 0"],
    ]
    assert result.exit_code == 0


def test_verify_skips_what_is_not_there(write: Write, invoke: Invoke) -> None:
    package = with_file(write(test=False), "0/data/model.json", b'{"function": "double"}', keep_manifest=False)

    result = invoke("verify", package, "--json")

    assert statuses(result) == [{"format": "ok", "hashes": "skipped", "load": "ok", "test": "skipped"}]
    assert result.exit_code == 0


def test_verify_without_loading_needs_no_backend(write: Write, invoke: Invoke) -> None:
    package = write()
    plugins.unregister("double")

    result = invoke("verify", package, "--no-load", "--json")

    assert statuses(result) == [{"format": "ok", "hashes": "ok", "load": "skipped", "test": "skipped"}]


def test_verify_fails_where_results_are_others(write: Write, invoke: Invoke) -> None:
    package = with_file(write("double"), "0/data/model.json", b'{"function": "same"}', keep_manifest=False)

    result = invoke("verify", package, "--json")

    assert result.exit_code == 1
    assert statuses(result) == [{"format": "ok", "hashes": "skipped", "load": "ok", "test": "failed"}]
    assert json.loads(result.stdout)["packages"][0]["steps"][-1]["error"]["type"] == "ResultMismatchError"


@pytest.mark.parametrize(
    ("damage", "code", "last"),
    [
        (lambda package: with_file(package, "0/data/model.json", b"{}"), 1, "hashes"),
        (lambda package: with_file(package, "config.json", b"{", keep_manifest=False), 3, "format"),
        (lambda package: package.with_name("nowhere"), 3, "format"),
        (lambda package: with_file(package, "0/data/model.json", b"[", keep_manifest=False), 4, "load"),
        (lambda package: with_file(package, "0/ops/op.so", b"", keep_manifest=False), 5, "load"),
    ],
    ids=["hash", "format", "missing", "load", "trust"],
)
def test_verify_ends_a_package_at_the_step_that_fails(
    damage: Callable[[Path], Path], code: int, last: str, write: Write, invoke: Invoke
) -> None:
    result = invoke("verify", damage(write()), "--json")

    (steps,) = statuses(result)
    assert (result.exit_code, list(steps)[-1], steps[last]) == (code, last, "failed")


def test_verify_goes_on_with_the_other_packages(write: Write, invoke: Invoke) -> None:
    good = write()
    bad = with_file(good, "0/data/model.json", b"{}")

    result = invoke("verify", bad, good, "nowhere", "--json")

    assert [package["exit_code"] for package in json.loads(result.stdout)["packages"]] == [1, 0, 3]
    assert result.exit_code == 1


def test_verify_takes_folders(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    repack(write(test_expected_out={"y": np.array([2, 4], np.float32)}), tmp_path / "folder", package_as_zip=False)

    assert invoke("verify", tmp_path / "folder").exit_code == 0
