from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from neuropod_core import Package, load_neuropod

Write = Callable[..., Path]
Invoke = Callable[..., Result]

HOLD = """
import sys
from neuropod_core import Package
package = Package.open(sys.argv[1])
print(package.folder(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, write: Write) -> Path:
    """Give a cache with two packages, ``double`` used a moment ago and ``same`` 40 days before."""
    for name in ("double", "same"):
        with Package.open(write(name, test=False)) as package:
            package.folder()
    del package
    gc.collect()
    folder = tmp_path / "cache" / "v1"
    then = time.time() - 40 * 86400
    key = next(
        path.parents[1].name for path in folder.glob("packages/*/content/config.json") if "same" in path.read_text()
    )
    os.utime(folder / "uses" / key, (then, then))
    os.utime(folder / "packages" / key / "record.json", (then, then))
    return folder


def answer(invoke: Invoke, *arguments: object, code: int = 0) -> Any:
    result = invoke("cache", *arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def names(cache: Path) -> set[str]:
    return {json.loads(path.read_text())["name"] for path in cache.glob("packages/*/content/config.json")}


def test_list_tells_what_is_there(cache: Path, invoke: Invoke, tmp_path: Path) -> None:
    document = answer(invoke, "list")

    assert document["folder"] == str(cache)
    assert [(one["name"], one["platform"], one["status"]) for one in document["packages"]] == [
        ("double", "double", "free"),
        ("same", "double", "free"),
    ]
    assert document["bytes"] == sum(one["bytes"] for one in document["packages"]) > 0
    assert all(Path(one["folder"], "config.json").exists() for one in document["packages"])


def test_list_gives_one_record_a_line(cache: Path, invoke: Invoke) -> None:
    lines = [line.split("\t") for line in invoke("cache", "list").stdout.splitlines()]

    assert [line[0] for line in lines] == ["package", "package", "folder", "size"]
    assert lines[0][2:4] == ["double", "double"]
    assert lines[0][5].endswith("Z")


def test_an_empty_cache_is_told_and_not_made(invoke: Invoke, tmp_path: Path) -> None:
    assert answer(invoke, "list", "--cache-dir", tmp_path / "none")["packages"] == []
    assert answer(invoke, "verify", "--cache-dir", tmp_path / "none")["packages"] == []
    assert answer(invoke, "prune", "--all", "--cache-dir", tmp_path / "none")["removed"] == []
    assert not (tmp_path / "none").exists()


def test_prune_by_age_removes_what_was_not_used(cache: Path, invoke: Invoke) -> None:
    assert [one["name"] for one in answer(invoke, "prune", "--older-than", "30d", "--dry-run")["removed"]] == ["same"]
    assert names(cache) == {"double", "same"}

    assert [one["name"] for one in answer(invoke, "prune", "--older-than", "30d")["removed"]] == ["same"]
    assert names(cache) == {"double"}
    assert len(list(cache.glob("uses/*"))) == 1
    assert list(cache.glob("unpacking/*")) == []


def test_a_dry_run_says_in_a_pipe_that_it_is_one(cache: Path, invoke: Invoke) -> None:
    dry, wet = (invoke("cache", "prune", "--older-than", "30d", *more).stdout for more in (["--dry-run"], []))

    assert dry.startswith("would-be-removed\tsame\t")
    assert wet.startswith("removed\tsame\t")


def test_prune_by_size_removes_what_was_not_used_longest(cache: Path, invoke: Invoke) -> None:
    sizes = {one["name"]: one["bytes"] for one in answer(invoke, "list")["packages"]}

    assert answer(invoke, "prune", "--max-size", sum(sizes.values()))["removed"] == []
    assert [one["name"] for one in answer(invoke, "prune", "--max-size", sizes["double"])["removed"]] == ["same"]
    assert answer(invoke, "prune", "--max-size", "0")["freed_bytes"] == sizes["double"]


def test_prune_without_options_keeps_what_is_sound(cache: Path, invoke: Invoke) -> None:
    assert answer(invoke, "prune")["removed"] == []
    assert names(cache) == {"double", "same"}


def test_prune_never_removes_what_a_process_has_open(cache: Path, invoke: Invoke, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "same.neuropod")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    folder = Path(process.stdout.readline().strip())

    assert {one["name"]: one["status"] for one in answer(invoke, "list")["packages"]} == {
        "double": "free",
        "same": "in use",
    }
    document = answer(invoke, "prune", "--all")
    assert [one["name"] for one in document["removed"]] == ["double"]
    assert [one["name"] for one in document["kept"]] == ["same"]
    assert (folder / "config.json").exists()
    process.kill()  # Whatever way it ends.
    process.communicate()

    assert [one["name"] for one in answer(invoke, "prune", "--all")["removed"]] == ["same"]
    assert not folder.exists()


def test_prune_keeps_what_this_process_has_loaded_until_it_lets_go(
    invoke: Invoke, write: Write, tmp_path: Path
) -> None:
    with load_neuropod(write("double")) as model:
        assert answer(invoke, "prune", "--all")["removed"] == []
        model.test()
    del model
    gc.collect()

    assert len(answer(invoke, "prune", "--all")["removed"]) == 1
    load_neuropod(tmp_path / "double.neuropod").close()  # It comes again.


def test_prune_forgets_what_is_not_there_any_more(cache: Path, invoke: Invoke) -> None:
    (cache / "index").mkdir(exist_ok=True)
    (cache / "index" / "a.json").write_text(json.dumps({"source": "/gone", "stamp": "s", "key": "in place"}))
    (cache / "pins").mkdir()
    (cache / "pins" / "b.json").write_text(json.dumps({"key": "gone"}))

    answer(invoke, "prune", "--all")

    for folder in ("index", "pins", "uses", "packages", "unpacking"):
        assert list((cache / folder).iterdir()) == [], folder


def test_prune_removes_what_a_dead_process_left(cache: Path, invoke: Invoke) -> None:
    (cache / "unpacking" / "dead").mkdir()
    (cache / "unpacking" / "dead.lock").touch()
    begun = cache / "downloads" / "begun"
    begun.mkdir(parents=True)
    (begun / "state.json").write_text('{"source": "s3://bucket/m"}')
    (begun / "part").write_bytes(b"12345")

    (unfinished,) = answer(invoke, "list")["unfinished"]
    assert (unfinished["source"], unfinished["status"]) == ("s3://bucket/m", "free")
    assert answer(invoke, "prune")["left_by_dead"] == 1
    assert list(cache.glob("unpacking/*")) == []
    assert begun.exists()  # It may be gone on with.

    then = time.time() - 8 * 86400
    for path in begun.iterdir():
        os.utime(path, (then, then))
    assert [one["name"] for one in answer(invoke, "prune")["removed"]] == ["s3://bucket/m"]
    assert list(cache.glob("downloads/*")) == []


def damaged(cache: Path, *, visibly: bool) -> Path:
    path = next(path for path in cache.glob("packages/*/content/0/data/model.json") if "same" in path.read_text())
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"X" * status.st_size)
    if not visibly:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return path


@pytest.mark.parametrize("visibly", [True, False], ids=["visible", "hidden"])
def test_verify_finds_damage_and_removes_it_on_request(visibly: bool, cache: Path, invoke: Invoke) -> None:
    path = damaged(cache, visibly=visibly)

    checked = answer(invoke, "verify", code=1)["packages"]
    assert {one["name"]: one["status"] for one in checked} == {"double": "ok", "same": "damaged"}
    assert any("0/data/model.json: expected sha256" in (one["reason"] or "") for one in checked)
    assert path.exists()
    assert {one["status"] for one in answer(invoke, "verify", "--remove", code=1)["packages"]} == {"ok", "removed"}
    assert not path.exists()
    answer(invoke, "verify")


@pytest.mark.parametrize("change", ["more", "less", "manifest"])
def test_verify_finds_files_that_came_or_went(change: str, cache: Path, invoke: Invoke) -> None:
    content = damaged(cache, visibly=False).parents[2]
    if change == "more":
        (content / "0" / "more").touch()
    elif change == "less":
        (content / "0" / "data" / "model.json").unlink()
    else:
        (content / "manifest.json").chmod(0o644)
        (content / "manifest.json").write_bytes((content / "manifest.json").read_bytes() + b" ")

    assert {one["status"] for one in answer(invoke, "verify", code=1)["packages"]} == {"ok", "damaged"}


def test_verify_vouches_for_packages_without_a_manifest(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(write("double")) as source, zipfile.ZipFile(tmp_path / "bare", "w") as target:
        for name in source.namelist():
            if name != "manifest.json":
                target.writestr(name, source.read(name))
    with Package.open(tmp_path / "bare") as package:
        folder = package.folder()

    assert [one["status"] for one in answer(invoke, "verify")["packages"]] == ["ok"]
    path = folder / "0" / "data" / "model.json"
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"X" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [one["status"] for one in answer(invoke, "verify", code=1)["packages"]] == ["damaged"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--older-than", "soon"),
        ("--older-than", "-1d"),
        ("--max-size", "big"),
        ("--max-size", "1XB"),
        ("--older-than", ""),
    ],
)
def test_prune_refuses_what_it_cannot_read(arguments: tuple[str, str], cache: Path, invoke: Invoke) -> None:
    assert invoke("cache", "prune", *arguments).exit_code == 2
    assert names(cache) == {"double", "same"}


def test_concurrent_loads_and_prunes_do_each_other_no_harm(write: Write, tmp_path: Path) -> None:
    write("double", test=False)
    load = """
import sys
from neuropod_core import Package
for _ in range(60):
    with Package.open(sys.argv[1]) as package:
        assert (package.folder() / "0/data/model.json").read_bytes()
    del package
"""
    prune = """
import os
from pathlib import Path
from neuropod_core._upkeep import Upkeep
upkeep = Upkeep(Path(os.environ["NEUROPOD_CACHE_DIR"]))
for _ in range(300):
    for entry in upkeep.entries():
        upkeep.remove(entry)
    upkeep.tidy()
"""
    package = str(tmp_path / "double.neuropod")
    processes = [
        subprocess.Popen([sys.executable, "-c", program, package], stderr=subprocess.PIPE)
        for program in (load, load, prune, prune)
    ]

    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
