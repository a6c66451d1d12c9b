from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
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


@pytest.mark.parametrize("damage", ["lost", "changed", "{", '{"files": {"a\\u0000": [7, 1]}}', '{"files": [1]}'])
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
        (content.parent / "record.json").write_text(damage)

    assert cache.content("key") is None
    assert (cache.add("key", fill) / "a").read_bytes() == b"content"


def test_only_the_owner_reads_the_cache(tmp_path: Path) -> None:
    Cache(tmp_path / "shared").add("key", fill)

    assert stat.S_IMODE((tmp_path / "shared/v1").stat().st_mode) == 0o700


def test_content_that_another_opener_published_stays_in_its_place(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    published: list[tuple[Path, int]] = []

    def fill_late(folder: Path) -> None:
        fill(folder)
        first = cache.add("key", fill)
        published.append((first, first.stat().st_ino))

    assert cache.add("key", fill_late) == published[0][0]
    assert published[0][0].stat().st_ino == published[0][1]


def test_many_openers_of_damaged_content_agree(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (cache.add("key", fill) / "a").unlink()
    ready = threading.Barrier(8)

    def add(_: int) -> int:
        ready.wait()
        content = cache.add("key", fill)
        assert (content / "a").read_bytes() == b"content"
        return (content / "a").stat().st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(add, range(8)))) == 1


def test_a_file_system_without_locks_is_done_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    cache = Cache(tmp_path)
    (tmp_path / "v1/unpacking").mkdir(parents=True)
    (tmp_path / "v1/unpacking/other.lock").touch()

    assert (cache.add("key", fill) / "a").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "v1/unpacking").iterdir()] == ["other.lock"], "it may be in use"


@pytest.mark.parametrize(("ago_ns", "kept"), [(2 * 10**9, False), (4 * 10**9, True)], ids=["too young", "settled"])
def test_a_time_in_whole_seconds_settles_later(ago_ns: int, kept: bool, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    now_s = time.time_ns() // 10**9

    cache.remember(str(tmp_path / "m"), "stamp", "key", now_s * 10**9 - ago_ns + 10**9)

    assert (cache.key_of(str(tmp_path / "m"), "stamp") == "key") is kept


@pytest.mark.parametrize("home", [Path("~/.cache/neuropod"), None], ids=["unknown", "refused"])
def test_a_user_without_a_home_has_no_cache(
    home: Path | None, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def user_cache_path(*_: object, **__: object) -> Path:
        if home is None:
            raise RuntimeError("could not determine the home directory")
        return home

    path = write(tmp_path / "m.neuropod")
    monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
    monkeypatch.delenv("NEUROPOD_CACHE_DIR")
    monkeypatch.chdir(tmp_path)

    with Package.open(path) as opened:
        assert (opened.folder() / "config.json").is_file()
    assert not (tmp_path / "~").exists()


def test_a_relative_cache_gives_absolute_folders(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.neuropod")
    monkeypatch.chdir(tmp_path)

    with Package.open(path, cache_dir="relative") as opened:
        assert opened.folder().is_relative_to(tmp_path / "relative")


def test_a_forked_child_leaves_the_private_folder_of_its_parent(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.neuropod")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "file"))
    run = (
        "import os, sys, neuropod_core\n"
        "with neuropod_core.Package.open(sys.argv[1]) as opened: folder = opened.folder()\n"
        "if not os.fork(): sys.exit()\n"
        "os.wait()\n"
        "print(folder.exists())"
    )

    there = subprocess.run([sys.executable, "-c", run, path], check=True, capture_output=True, text=True).stdout

    assert there == "True\n"


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
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "m.neuropod")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "file"))

    with Package.open(path) as opened:
        folder = opened.folder()
    assert (folder / "0/data/model.json").exists()

    assert "m.neuropod is unpacked for this model alone: the cache cannot be written" in caplog.text

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


def test_a_tree_that_is_deeper_than_a_path_is_long_is_removed(tmp_path: Path) -> None:
    """Made as a hostile model can: step by step, so that no name of it is ever a whole path."""
    top = tmp_path / "top"
    top.mkdir()
    program = (
        "import os\nfor n in range(3000):\n open('f', 'w').close(); os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=top, check=True)
    (top / "link").symlink_to(tmp_path)

    assert len(list(cache_module.everything_in(top))) > 100
    try:
        cache_module.remove_tree(top)
        left = list(tmp_path.iterdir())
    finally:
        subprocess.run(["rm", "-rf", top], check=False)  # Else whoever removes old folders of tests stumbles.

    assert left == []
