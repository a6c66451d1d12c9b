from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import Package, PackagingError, Problem, TensorSpec, load_neuropod
from neuropod_core.packaging import new_package, repack

Write = Callable[..., Path]


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("cache", "site"))


def test_an_archive_is_laid_out_as_the_original_does(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod")

    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        manifest = json.loads(archive.read("manifest.json"))
        assert [entry.filename for entry in entries] == ["0/data/model.json", "config.json", "manifest.json"]
        assert {entry.date_time for entry in entries} == {(2000, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in entries} == {zipfile.ZIP_DEFLATED}
        assert {entry.external_attr >> 16 for entry in entries} == {stat.S_IFREG | 0o644}
        for name, digest in manifest["files"].items():
            assert hashlib.sha256(archive.read(name)).hexdigest() == digest
        assert set(manifest["files"]) == {"0/data/model.json", "config.json"}


def test_equal_content_gives_equal_archives(write: Write, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        first = write(tmp_path / "a.neuropod").read_bytes()
    finally:
        os.umask(before)

    assert write(tmp_path / "b.neuropod").read_bytes() == first


@pytest.mark.parametrize("compression", ["stored", zipfile.ZIP_STORED])
def test_compression_can_be_switched_off(compression: Any, write: Write, tmp_path: Path) -> None:
    with zipfile.ZipFile(write(tmp_path / "m.neuropod", zip_compression=compression)) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_permissions_follow_the_umask(write: Write, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = write(tmp_path / "folder.neuropod", package_as_zip=False)
        archive = write(tmp_path / "archive.neuropod")
    finally:
        os.umask(before)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE(archive.stat().st_mode) == 0o644


def test_what_compresses_too_well_is_stored(tmp_path: Path, calc: Any) -> None:
    del calc
    path = tmp_path / "m.neuropod"
    with new_package("calc", neuropod_path=path, model_name="m", problem=Problem((), ())) as new:
        (new.folder / "data").mkdir()
        (new.folder / "data" / "model.json").write_text('{"function": "constant"}')
        with (new.folder / "zeros").open("wb") as file:
            file.truncate(300 << 20)

    with Package.open(path) as package:
        assert package.files["0/zeros"] == 300 << 20


def test_specs_can_be_given_as_the_original_takes_them(write: Write, tmp_path: Path) -> None:
    specs: list[dict[str, Any]] = [
        {"name": name, "dtype": "float32", "shape": ("N", "M")} for name in ("x", "y", "sum", "difference")
    ]
    path = tmp_path / "m.neuropod"

    write(path, problem=None, input_spec=specs[:2], output_spec=specs[2:], default_input_tensor_device="CPU")

    with Package.open(path) as package:
        assert package.config.problem == Problem(
            tuple(TensorSpec(**spec) for spec in specs[:2]), tuple(TensorSpec(**spec) for spec in specs[2:])
        )
        assert dict(package.config.input_devices) == {"x": "CPU", "y": "CPU"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": None}, "pass either problem, a Problem, or input_spec and output_spec"),
        ({"input_spec": []}, "pass either problem, a Problem, or input_spec and output_spec"),
        ({"colour": 3}, "unknown arguments \\['colour'\\]"),
        ({"zip_compression": "lzma"}, "'deflated' or 'stored', not 'lzma'"),
        ({"input_tensor_device": {"q": "GPU"}}, "'GPU' or 'CPU'"),
        ({"default_input_tensor_device": "TPU"}, "'GPU' or 'CPU'"),
        ({"custom_ops": ["absent.so"]}, "custom op cannot be read"),
        ({"custom_ops": "absent.so"}, "a list of paths, not 'absent.so'"),
        ({"problem": {"inputs": {}}}, "pass either problem, a Problem, or"),
        ({"platform_version_semver": {1, 2}}, "the declaration of 'add' cannot be written"),
        ({"platform_version_semver": ""}, "platform_version_semver"),
        ({"test_input_data": [1]}, "test_input_data are tensors by name, not list"),
        ({"neuropod_load_args": {"gpu": 1}}, "\\['gpu'\\], which load_neuropod does not take"),
        ({"test_expected_out": {}}, "test_expected_out needs test_input_data"),
        ({"neuropod_load_args": {"device": "cuda"}}, "does not work: the backend for 'calc' runs on cpu"),
        ({"test_input_data": {"x": 3}}, "does not work: expected float32\\[N, M\\], got int - at inputs.x"),
    ],
    ids=str,
)
def test_a_wrong_argument_leaves_nothing_behind(
    arguments: dict[str, Any], message: str, write: Write, tmp_path: Path
) -> None:
    with pytest.raises(PackagingError, match=message):
        write(tmp_path / "m.neuropod", **arguments)

    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ([[1, 2], [3]], "test_expected_out.sum is list, no tensor"),
        (np.zeros((2, 3), complex), "test_expected_out.sum is complex128\\[2, 3\\], no tensor"),
        ([["a"] * 3] * 2, "the test data expects string\\[2, 3\\], got float32\\[2, 3\\]"),
        (np.full((2, 3), -3e38, np.float32), "the test data expects close to float32\\[2, 3\\]"),
    ],
    ids=["ragged", "complex", "text", "far"],
)
def test_expected_results_that_cannot_be_are_named(
    expected: Any, message: str, write: Write, tmp_path: Path, x: np.ndarray
) -> None:
    inputs = {"x": x + np.float32(3e38), "y": x}

    with pytest.raises(PackagingError, match=message):
        write(tmp_path / "m.neuropod", test_input_data=inputs, test_expected_out={"sum": expected})


def test_a_wrong_declaration_is_refused_before_the_packager_works(tmp_path: Path) -> None:
    with (
        pytest.raises(PackagingError, match="'name' as a text"),
        new_package("calc", neuropod_path=tmp_path / "m", model_name="", problem=Problem((), ())),
    ):
        pytest.fail("the packager was asked to work")


@pytest.mark.parametrize(
    ("path", "message"),
    [("a" * 300, "cannot be written"), ("a\0b", "is no path"), ("/proc/m.neuropod", "cannot be written")],
    ids=["long", "null", "read-only"],
)
def test_a_place_that_cannot_be_is_named(path: str, message: str, write: Write, tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match=message):
        write(tmp_path / path)


def test_the_longest_name_can_be_written(write: Write, tmp_path: Path) -> None:
    assert write(tmp_path / ("a" * 255)).is_file()


def test_a_working_directory_that_is_gone_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(PackagingError, match="cannot be written|no such folder"):
        write(Path("m.neuropod"))


def test_other_results_than_expected_leave_nothing_behind(write: Write, tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(PackagingError, match="the test data expects close to float32\\[2, 3\\]"):
        write(tmp_path / "m.neuropod", test_input_data={"x": x, "y": x}, test_expected_out={"sum": x})

    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_packager_that_fails_leaves_nothing_behind(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with new_package("calc", neuropod_path=tmp_path / "m", model_name="m", problem=Problem((), ())) as new:
            (new.folder / "data").mkdir()
            raise error

    with pytest.raises(error):
        fail()
    assert left_behind(tmp_path) == []


_STOPS_HALF_WAY = """
import sys, time
from neuropod_core import Problem
from neuropod_core.packaging import new_package

with new_package("calc", neuropod_path=sys.argv[1], model_name="m", problem=Problem((), ())) as new:
    (new.folder / "large").write_bytes(b"0" * 1000)
    print("half way", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_packager_left_is_removed_by_the_next(write: Write, tmp_path: Path) -> None:
    packagers = []
    for name in ("killed", "alive"):
        arguments = [sys.executable, "-c", _STOPS_HALF_WAY, str(tmp_path / name)]
        packagers.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True))
        assert packagers[-1].stdout is not None
        assert packagers[-1].stdout.readline() == "half way\n"
    killed, alive = packagers
    killed.kill()
    killed.communicate()
    for folder in tmp_path.glob(".neuropod-*"):
        os.utime(folder, (0, 0))
    (tmp_path / ".neuropod-of-mine").mkdir()
    os.utime(tmp_path / ".neuropod-of-mine", (0, 0))

    write(tmp_path / "m.neuropod")
    left = left_behind(tmp_path)
    alive.kill()
    alive.communicate()

    assert len(left) == 3  # The package, the folder of the one that is alive, and that of a longer name.
    assert ".neuropod-of-mine" in left


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_there_is_never_replaced(make: Callable[[Path], None], write: Write, tmp_path: Path) -> None:
    path = tmp_path / "m.neuropod"
    make(path)

    with pytest.raises(ValueError, match="something is there already - at .*m.neuropod; remove it"):
        write(path)
    assert left_behind(tmp_path) == ["m.neuropod"]


@pytest.mark.parametrize("package_as_zip", [True, False])
def test_of_two_packagers_one_wins_and_the_other_says_so(
    package_as_zip: bool,
    write: Write,
    tmp_path: Path,
) -> None:
    path, barrier = tmp_path / "m.neuropod", threading.Barrier(2)
    outcomes: list[object] = []

    def race() -> None:
        barrier.wait()
        try:
            outcomes.append(write(path, package_as_zip=package_as_zip))
        except (PackagingError, OSError) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(type, outcomes), key=str) == sorted([type(path), PackagingError], key=str)
    assert left_behind(tmp_path) == ["m.neuropod"]


def test_a_missing_folder_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match="there is no such folder - at .*absent; create it first"):
        write(tmp_path / "absent" / "m.neuropod")


def test_what_came_out_is_recorded_where_nothing_was_expected(write: Write, tmp_path: Path, x: np.ndarray) -> None:
    path = write(tmp_path / "m.neuropod", test_input_data={"x": x, "y": x})

    with load_neuropod(path) as model:
        assert model.test() == {"sum": 0.0, "difference": 0.0}


def test_test_data_stays_out_when_told(write: Write, tmp_path: Path, x: np.ndarray) -> None:
    path = write(tmp_path / "m.neuropod", test_input_data={"x": x, "y": x}, persist_test_data=False)

    with Package.open(path) as package:
        assert package.test_data() is None


def test_repacking_keeps_every_file(write: Write, tmp_path: Path, x: np.ndarray) -> None:
    archive = write(tmp_path / "a.neuropod", test_input_data={"x": x, "y": x})
    folder, again = tmp_path / "b.neuropod", tmp_path / "c.neuropod"
    repack(archive, folder, package_as_zip=False)
    repack(folder, again)

    assert again.read_bytes() == archive.read_bytes()
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) & stat.S_IWUSR


def test_repacking_leaves_out_what_somebody_put_into_the_cache(write: Write, tmp_path: Path) -> None:
    archive = write(tmp_path / "a.neuropod")
    with Package.open(archive) as package:
        (package.folder() / "0" / "__pycache__").mkdir()
        (package.folder() / "0" / "__pycache__" / "m.pyc").touch()

    repack(archive, tmp_path / "b.neuropod")

    assert (tmp_path / "b.neuropod").read_bytes() == archive.read_bytes()


def test_repacking_keeps_variants_and_files_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "theirs.neuropod"
    config = {"name": "m", "platform": "calc", "input_spec": [], "output_spec": [], "variants": [{"folder": "1"}]}
    for name, content in {"config.json": json.dumps(config), "1/data/other": "x", "0/data/model.json": "{}"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    repack(folder, tmp_path / "m.neuropod")

    with Package.open(tmp_path / "m.neuropod") as package:
        assert package.read("1/data/other") == b"x"
        assert package.config.raw["variants"] == [{"folder": "1"}]
