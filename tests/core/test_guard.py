"""Wheels as they are looked through before anything of them is installed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from neuropod_core import EnvironmentBuildError
from neuropod_core._cache import remove_tree
from neuropod_core.environments import _guard


def wheel(folder: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "one-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "one-1.0.data/./data/bin/python",
        "one-1.0.data//data/bin/python3._pth",
        "./one-1.0.data/scripts/Python3",
        "one-1.0.data/data/./pyvenv.cfg",
        "one-1.0.data\\scripts\\python",
        "d/" * 600 + "x.py",
        "a/../../x.py",
    ],
    ids=lambda name: name[:40],
)
def test_a_file_that_lies_where_none_of_a_wheel_does_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="would write") as refused:
        _guard.check_wheels([wheel(tmp_path, {name: b"", "one/__init__.py": b""})])
    assert refused.value.reason == "contents"


@pytest.mark.parametrize(
    "text",
    [
        b"[console_scripts]\n  python = one:main\n",
        b"\xef\xbb\xbf[console_scripts]\npython3 = one:main\n",
        b"python = one:main\n[other]\n",
        b"[ console_scripts ]\npython=one:main",
        b"[gui_scripts]\n../../x = one:main\n",
        b"[console_scripts]\n" + b"# long\n" * 200_000,
    ],
    ids=["indented", "mark", "before", "spaces", "outside", "long"],
)
def test_entry_points_are_read_as_leniently_as_by_any_installer(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="would write"):
        _guard.check_wheels([wheel(tmp_path, {"one-1.0.dist-info/entry_points.txt": text})])


def test_entry_points_that_nobody_can_read_are_refused_and_hide_nothing(tmp_path: Path) -> None:
    files = {"one-1.0.dist-info/entry_points.txt": bytes(1000), "one/x.py": b""}
    path = wheel(tmp_path, files)
    data = bytearray(path.read_bytes())
    start = data.index(b"entry_points.txt") + len("entry_points.txt")
    data[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(EnvironmentBuildError, match="entry_points"):
        _guard.check_wheels([path])


def test_a_wheel_that_unpacks_to_what_no_software_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guard, "_FREE_BYTES", 1 << 20)
    with pytest.raises(EnvironmentBuildError, match="hundred times"):
        _guard.check_wheels([wheel(tmp_path, {"one/zeros.bin": bytes(20 << 20)})])


def test_an_honest_wheel_may_be_installed(tmp_path: Path) -> None:
    files = {
        "one/python.py": b"",
        "one-1.0.data/scripts/tool": b"#!python\n",
        "one-1.0.data/data/share/one/python3": b"",
        "one-1.0.dist-info/entry_points.txt": b"[console_scripts]\none = one:main\n\n[lexers]\npython = one:Lexer\n",
    }
    _guard.check_wheels([wheel(tmp_path, files)])


def test_what_lies_deep_in_an_environment_is_looked_at(tmp_path: Path) -> None:
    before = _guard.fingerprints(tmp_path)
    deep = tmp_path / "share"
    try:
        for _ in range(1200):
            deep.mkdir()
            deep /= "d"
        _guard.check_untouched(tmp_path, before)
    finally:
        remove_tree(tmp_path / "share")  # Not everything that removes folders later can.
    assert not (tmp_path / "share").exists()
