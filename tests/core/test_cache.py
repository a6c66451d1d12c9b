from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuropod_core import Package, load_neuropod
from neuropod_core import _cache as cache_module
from neuropod_core._cache import Cache

Write = Callable[..., Path]


def unpacked(path: Path) -> Path:
    with Package.open(path) as opened:
        return opened.folder()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Give every path below a folder with its inode and its last change."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
        if path.exists()
    }


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file count as settled at once: the tests write packages a moment before they load them."""
    monkeypatch.setattr(cache_module, "_UNSETTLED_NS", 0)


def fill(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")


def test_content_is_found_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    added = cache.add("key", fill)

    assert cache.content("key") == added
    assert (added / "a").read_bytes() == b"content"
    assert cache.content("other") is None


def test_content_is_unpacked_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.add("key", fill)
    before = (first / "a").stat()

    assert cache.add("key", fill) == first
    assert (first / "a").stat().st_ino == before.st_ino
    assert not list((tmp_path / "v1/unpacking").iterdir())


@pytest.mark.parametrize("damage", ["lost", "changed", "record"])
def test_damaged_content_is_replaced(damage: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    content = cache.add("key", fill)
    if damage == "lost":
        (content / "a").unlink()
    elif damage == "changed":
        (content / "a").chmod(0o644)
        (content / "a").write_bytes(b"CONTENT")
        os.utime(content / "a", ns=(1, 1))
    else:
        (content.parent / "record.json").write_text("{")

    assert cache.content("key") is None
    assert (cache.add("key", fill) / "a").read_bytes() == b"content"


def test_only_the_owner_reads_the_cache(tmp_path: Path) -> None:
    Cache(tmp_path / "shared").add("key", fill)

    assert stat.S_IMODE((tmp_path / "shared/v1").stat().st_mode) == 0o700


def test_a_failed_filling_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("disk full")

    cache = Cache(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        cache.add("key", fail)

    assert cache.content("key") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("package_as_zip", [True, False], ids=["archive", "folder"])
def test_the_second_load_writes_nothing(package_as_zip: bool, write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod", package_as_zip=package_as_zip)
    load_neuropod(path).close()
    before = tree(tmp_path)

    load_neuropod(path).close()

    assert tree(tmp_path) == before


@pytest.mark.usefixtures("settled")
def test_the_second_load_hashes_nothing(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{kind}.neuropod", package_as_zip=kind == "zip") for kind in ("zip", "folder")]
    for path in paths:
        unpacked(path)

    def never(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(Package, "_check_hash", never)
    for path in paths:
        assert unpacked(path).is_dir()


def test_what_was_written_a_moment_ago_is_verified_again(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod", package_as_zip=False)
    os.utime(path / "config.json", ns=(time.time_ns() + 10**9,) * 2)
    unpacked(path)

    assert not list((tmp_path / "cache").rglob("index/*"))


def test_equal_content_is_kept_once(write: Write, tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.neuropod") for name in "ab")

    assert unpacked(first) == unpacked(second)


def test_a_cache_that_cannot_be_written_is_done_without(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.neuropod")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "file"))

    with Package.open(path) as opened:
        folder = opened.folder()
    assert (folder / "0/data/model.json").exists()

    del opened
    assert not folder.exists()


OPEN = """
import os, sys
from neuropod_core import Package
from neuropod_core import package as module
if sys.argv[2] == "stop":
    class Slow(module.Package):
        def _check_hash(self, name, digest):
            print("unpacking", flush=True)
            sys.stdin.readline()
    module.Package = Package = Slow
else:
    print("started", flush=True)
    sys.stdin.readline()
with Package.open(sys.argv[1]) as opened:
    print(opened.folder())
"""


def opener(path: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN, str(path), mode]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() in ("unpacking\n", "started\n")
    return started


def test_openers_side_by_side_get_one_folder(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod")
    openers = [opener(path, "go") for _ in range(4)]
    for each in openers:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()

    folders = {each.communicate()[0].strip() for each in openers}

    assert folders == {str(unpacked(path))}
    assert not list((tmp_path / "cache/v1/unpacking").iterdir())


def test_what_a_killed_opener_left_is_removed_by_the_next(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod")
    killed, alive = opener(path, "stop"), opener(path, "stop")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    unpacking = tmp_path / "cache/v1/unpacking"
    assert len(list(unpacking.glob("*.lock"))) == 2

    folder = unpacked(path)

    assert (folder / "0/data/model.json").read_bytes() == b'{"function": "add"}'
    assert len(list(unpacking.glob("*.lock"))) == 1, "the one alive keeps its place"
    alive.communicate("\n" * 10)
    assert not list(unpacking.iterdir())
