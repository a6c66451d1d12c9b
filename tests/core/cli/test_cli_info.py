from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from neuropod_core import DType, Problem, TensorSpec, plugins

Write = Callable[..., Path]
Invoke = Callable[..., Result]

DIGITS = Problem.of(
    [
        TensorSpec(
            "image", DType.UINT8, ("N", 8, None), unit="grey", description="a\tscan\nof \x1b[2J[bold]digits[/bold]"
        )
    ],
    [TensorSpec("y", DType.FLOAT32, ("N",), optional=True)],
    name="digits",
    description="reads \x1b]0;owned\x07 digits",
)


def corrupted(package: Path, name: str, content: bytes) -> Path:
    """Write the archive again with one file changed."""
    with zipfile.ZipFile(package) as source:
        files = {entry: source.read(entry) for entry in source.namelist()}
    changed = package.with_name("changed.neuropod")
    with zipfile.ZipFile(changed, "w") as target:
        for entry, data in (files | {name: content}).items():
            target.writestr(entry, data)
    return changed


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def test_info_gives_one_record_a_line(write: Write, invoke: Invoke) -> None:
    package = write("double", DIGITS, test=False, platform_version_semver=">=0.1")

    lines = [line.split("\t") for line in invoke("info", package).stdout.splitlines()]

    facts = {line[0]: line[1:] for line in lines if line[0] not in ("input", "output", "file")}
    assert facts["platform"] == ["double"]
    assert facts["platform version"] == [">=0.1"]
    assert facts["trust"] == ["graph", "graph is the class of double packages"]
    assert facts["test data"] == ["none"]
    assert facts["manifest"] == ["verified"]
    assert facts["backend"] == ["ok", "neuropod-double"]
    assert facts["description"] == ["reads \\x1b]0;owned\\x07 digits"]
    assert ["input", "image", "uint8[N, 8, ?]", "required", "grey", "a scan of \\x1b[2J[bold]digits[/bold]"] in lines
    assert ["output", "y", "float32[N]", "optional"] in lines
    assert [line[1] for line in lines if line[0] == "file"] == ["0/data/model.json", "config.json", "manifest.json"]


def test_info_json_is_complete(write: Write, invoke: Invoke) -> None:
    package = write()

    shown = document(invoke("info", package, "--json"))

    assert shown["problem"]["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["N"], "notation": "float32[N]", "optional": False, "unit": "",
         "description": ""}
    ]  # fmt: skip
    assert shown["trust"] == {"needed": "graph", "why": "graph is the class of double packages"}
    assert (shown["container"], shown["test_data"], shown["custom_ops"]) == ("zip", "test_data.safetensors", [])
    assert shown["backend"]["status"] == "ok"
    assert {file["path"] for file in shown["files"]} >= {"config.json", "0/data/model.json"}
    assert shown["bytes"] == sum(file["bytes"] for file in shown["files"])


def test_info_never_runs_the_model(write: Write, invoke: Invoke) -> None:
    package = write("buggy", test=False)

    assert invoke("info", package).exit_code == 0


@pytest.mark.parametrize(
    ("container", "arguments", "status"),
    [("folder", [], "verified"), ("zip", [], "verified"), ("zip", ["--no-verify"], "not verified")],
)
def test_info_tells_whether_the_manifest_was_verified(
    container: str, arguments: list[str], status: str, write: Write, invoke: Invoke
) -> None:
    package = write(package_as_zip=container == "zip")

    shown = document(invoke("info", package, "--json", *arguments))

    assert (shown["container"], shown["manifest"]["status"]) == (container, status)


def test_info_shows_a_package_whose_hashes_are_wrong_and_fails(write: Write, invoke: Invoke) -> None:
    changed = corrupted(write(), "0/data/model.json", b"{}")

    result = invoke("info", changed, "--json")

    assert result.exit_code == 1
    assert document(result)["manifest"]["status"] == "failed"
    assert document(result)["manifest"]["error"]["type"] == "PackageIntegrityError"
    assert document(result)["name"] == "double"


def test_info_says_what_is_missing_here(write: Write, invoke: Invoke) -> None:
    package = write()
    plugins.unregister("double")

    result = invoke("info", package, "--json")

    assert result.exit_code == 0
    assert document(result)["backend"]["status"] == "missing"
    assert document(result)["backend"]["error"]["type"] == "BackendNotFoundError"
    assert document(result)["trust"]["needed"] is None


def test_info_knows_that_custom_ops_are_code(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "ops.so").write_bytes(b"library")
    package = write(custom_ops=[tmp_path / "ops.so"])

    shown = document(invoke("info", package, "--json"))

    assert shown["custom_ops"] == ["ops.so"]
    assert shown["custom_op_targets"] == {}
    assert shown["trust"] == {"needed": "code", "why": "it brings native libraries in 0/ops"}


def test_info_tells_which_machine_custom_ops_are_for(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + (183).to_bytes(2, "little")
    for name, content in {"arm.so": header, "riddle.so": b"?"}.items():
        (tmp_path / name).write_bytes(content)
    package = write(custom_ops=[tmp_path / "arm.so", tmp_path / "riddle.so"])

    assert document(invoke("info", package, "--json"))["custom_op_targets"] == {"arm.so": "linux-aarch64"}
    assert "custom ops\tarm.so (linux-aarch64), riddle.so\n" in invoke("info", package).stdout


@pytest.mark.parametrize(
    ("content", "code", "kind"),
    [(None, 3, "PackageNotFoundError"), (b"no zip", 3, "PackageFormatError"), (b"", 3, "PackageFormatError")],
)
def test_info_of_no_package_is_an_error_in_json_too(
    content: bytes | None, code: int, kind: str, invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "\x1b[31mred"
    if content is not None:
        path.write_bytes(content)

    result = invoke("info", path, "--json")

    assert result.exit_code == code
    assert document(result)["error"]["type"] == kind
    assert "\x1b" not in result.stdout + result.stderr
    assert "\\x1b[31mred" in result.stderr
