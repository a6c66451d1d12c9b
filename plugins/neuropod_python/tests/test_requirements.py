"""Locks: how they are made, read and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core import (
    Executor,
    NeuropodError,
    PackageFormatError,
    PackageLimitError,
    PackagingError,
    RequirementsError,
)
from neuropod_python.locking import lock_requirements
from neuropod_python.requirements import check_installed, parse_lock

Load = Callable[..., Executor]

_ENTRY = {"entry.py": "def main(path):\n    return lambda x: {'y': x}\n"}


def _lock(folder: Path, text: str | bytes) -> Path:
    (folder / "requirements.lock").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


# -- reading


def test_a_lock_of_what_is_installed_is_met(load: Load) -> None:
    lock = f"# by hand\n\nnumpy=={np.__version__}  # via model\nPluggy=={metadata.version('pluggy')}\n"

    assert load(_ENTRY, lock=lock).infer({"x": np.ones(1, np.float32)})["y"].tolist() == [1]


def test_every_difference_is_listed(load: Load) -> None:
    lock = f"numpy==1.0\nabsent-distribution==2.0\npluggy=={metadata.version('pluggy')}\n"

    with pytest.raises(RequirementsError) as raised:
        load(_ENTRY, lock=lock)

    assert raised.value.differences == (
        f"numpy 1.0 (installed {np.__version__})",
        "absent-distribution 2.0 (not installed)",
    )
    assert "ignore_requirements=True" in str(raised.value)


def test_differences_can_be_waived(load: Load) -> None:
    executor = load(_ENTRY, lock="numpy==1.0\n", ignore_requirements=True)

    assert executor.infer({"x": np.ones(1, np.float32)})["y"].tolist() == [1]


def test_no_lock_asks_for_nothing(tmp_path: Path) -> None:
    check_installed(tmp_path)


def test_markers_and_extras_are_understood() -> None:
    pins = parse_lock("a==1 ; python_version < '3'\nb[x,y]==2\nC.d_e==3 ; python_version >= '3'\n")

    assert {name: str(pin.specifier) for name, pin in pins.items()} == {"b": "==2", "c-d-e": "==3"}


def test_local_versions_match_their_release(tmp_path: Path) -> None:
    version = metadata.version("pluggy")

    check_installed(_lock(tmp_path, f"pluggy=={version}"))
    with pytest.raises(RequirementsError, match="pluggy"):
        check_installed(_lock(tmp_path, f"pluggy=={version}+local"))


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example/simple",
        "-e .",
        "-r other.txt",
        "a @ https://evil.example/a.whl",
        "a @ file:///etc/passwd",
        "https://evil.example/a.whl",
        "./a.whl",
        "a",
        "a>=1",
        "a==1.*",
        "a==1,==2",
        "a===1",
        "a==1 --hash=sha256:00",
        "a==1 \\",
        "a==" + "1" * 2000,
        "a==1\0",
    ],
)
def test_lines_that_pin_nothing_are_refused(line: str) -> None:
    with pytest.raises(PackageFormatError, match="expected name==version in the requirements lock") as raised:
        parse_lock(f"b==1\n{line}\n", at="requirements.lock")

    assert raised.value.at == "requirements.lock:2"
    assert len(str(raised.value)) < 250


def test_two_versions_of_one_name_are_refused() -> None:
    assert list(parse_lock("a-b==1\nA_b==1\n")) == ["a-b"]
    with pytest.raises(PackageFormatError, match="a-b is locked twice, to ==1 and ==2"):
        parse_lock("a-b==1\nA_b==2\n")


def test_locks_are_bounded_and_text(tmp_path: Path) -> None:
    with pytest.raises(PackageLimitError, match="bytes of a requirements lock"):
        check_installed(_lock(tmp_path, b"#" * (1 << 21)))
    with pytest.raises(PackageLimitError, match="lines of a requirements lock"):
        check_installed(_lock(tmp_path, "\n" * 6000))
    with pytest.raises(PackageFormatError, match="not UTF-8"):
        check_installed(_lock(tmp_path, b"\xff\xfe"))


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from([*"ab=1.!~;@[]()'\" \n#-*+,<>", "==", "a==1"]), max_size=40).map("".join),
    )
)
def test_any_text_is_a_lock_or_our_error(text: str) -> None:
    try:
        pins = parse_lock(text)
    except NeuropodError:
        return
    assert all(len(list(pin.specifier)) == 1 for pin in pins.values())


# -- writing


def test_the_installed_versions_are_locked_with_all_that_they_need() -> None:
    lock = lock_requirements("hypothesis  # for the model\nnumpy>=1\n\n# nothing\n")

    pins = dict(line.split("==") for line in lock.splitlines())
    assert pins["numpy"] == np.__version__
    assert pins["sortedcontainers"] == metadata.version("sortedcontainers")
    assert list(pins) == sorted(pins)
    assert lock == lock_requirements("numpy>=1\nhypothesis\n")
    assert parse_lock(lock).keys() == pins.keys()


def test_markers_and_extras_are_followed() -> None:
    assert "pytest" not in lock_requirements("hypothesis")
    assert "pytest==" in lock_requirements("hypothesis[pytest]")
    assert lock_requirements("absent-distribution ; python_version < '3'") == ""


@pytest.mark.parametrize("line", ["--index-url https://x.example", "-e .", "./wheel.whl", "a b"])
def test_lines_that_are_no_requirements_are_refused(line: str) -> None:
    with pytest.raises(PackagingError, match="is no requirement - at requirements; write requirements like"):
        lock_requirements(f"numpy\n{line}\n")


def test_addresses_are_refused() -> None:
    with pytest.raises(PackagingError, match="names an address"):
        lock_requirements("a @ https://x.example/a.whl")


def test_what_is_not_installed_needs_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(__import__("sys").modules, "uv", None)

    with pytest.raises(PackagingError, match=r"numpy>=99 \(installed .*neuropod-python\[lock\]"):
        lock_requirements("numpy>=99\nabsent-distribution")


def test_uv_is_heard_where_it_cannot_resolve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = shutil.which("uv") or tmp_path / "uv"
    if uv == tmp_path / "uv":
        uv.write_text("#!/bin/sh\necho 'no version of numpy' >&2\nexit 1\n")
        uv.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("UV_OFFLINE", "1")

    with pytest.raises(PackagingError, match=r"uv cannot resolve them: .*numpy"):
        lock_requirements("numpy>=99")
