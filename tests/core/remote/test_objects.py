"""Packages behind URLs of fsspec: its memory, local and archive file systems, and drivers that fail."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import (
    Package,
    PackageError,
    PackageIntegrityError,
    PackageNotFoundError,
    SourceError,
    load_neuropod,
)
from neuropod_core.sources import Source, Transfer

fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("calc")

Write = Callable[..., Path]


@pytest.fixture
def memory() -> Iterator[Any]:
    """Give an empty file system in memory that counts what is read of it."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(write: Write, tmp_path: Path, memory: Any) -> Path:
    """Give a package as a folder, which lies at ``memory://bucket/folder``, too."""
    x = np.ones((1, 1), np.float32)
    path = write(tmp_path / "folder", test_input_data={"x": x, "y": x}, package_as_zip=False)
    memory.put(str(path), "/bucket/folder", recursive=True)
    return path


def counting(memory: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    original = type(memory).cat_file

    def cat_file(self: Any, path: str, **bounds: Any) -> Any:
        read.append(len(data := original(self, path, **bounds)))
        return data

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    return read


@pytest.mark.parametrize("url", ["memory://bucket/m", "local://{path}", "zip://inner/m::memory://bucket/outer.zip"])
def test_an_archive_is_read_through_every_file_system(url: str, memory: Any, small: bytes, tmp_path: Path) -> None:
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("inner/m", small)
    memory.pipe({"/bucket/m": small, "/bucket/outer.zip": outer.getvalue()})
    (tmp_path / "m").write_bytes(small)

    with load_neuropod(url.format(path=tmp_path / "m")) as model:
        assert model.test() == {"sum": 0.0, "difference": 0.0}


def test_describing_reads_little(memory: Any, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/bucket/m", large)
    read = counting(memory, monkeypatch)

    with Package.open("memory://bucket/m") as package:
        assert package.manifest is not None

    assert sum(read) < 110_000 < len(large)


def test_a_folder_is_fetched_and_verified(folder: Path, memory: Any, tmp_path: Path) -> None:
    with load_neuropod("memory://bucket/folder") as model:
        assert model.test() == {"sum": 0.0, "difference": 0.0}
    with Package.open("memory://bucket/folder") as package:
        assert {name: (package.path / name).read_bytes() for name in package.files} == {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
    assert [path.name for path in tmp_path.glob("cache/v1/downloads/*") if path.suffix != ".lock"] == []


def test_a_folder_without_a_manifest_is_fetched(folder: Path, memory: Any) -> None:
    memory.rm("/bucket/folder/manifest.json")

    for _ in range(2):
        with load_neuropod("memory://bucket/folder") as model:
            assert model.test()


def test_a_damaged_folder_is_refused(folder: Path, memory: Any, tmp_path: Path) -> None:
    memory.pipe("/bucket/folder/0/data/model.json", b'{"function": "bad"}')

    with pytest.raises(PackageIntegrityError, match=r"memory://bucket/folder: 0/data/model\.json"):
        load_neuropod("memory://bucket/folder")
    assert not list(tmp_path.glob("cache/v1/packages/*"))


def test_a_folder_goes_on_where_it_was_cut(
    folder: Path, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counting(memory, monkeypatch)
    counted = type(memory).cat_file
    failing = True

    def cat_file(self: Any, path: str, **bounds: Any) -> Any:
        if failing and path.endswith("test_data.safetensors"):
            raise ConnectionError("reset")
        return counted(self, path, **bounds)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    with pytest.raises(SourceError, match="ConnectionError: reset"):
        Package.open("memory://bucket/folder").folder()
    failing = False
    read.clear()
    seen: list[Transfer] = []

    Package.open("memory://bucket/folder", on_transfer=seen.append).folder()

    assert seen[-1].resumed_at > 0
    assert sum(read) < sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) + 1000


def test_a_folder_cannot_be_pinned(folder: Path) -> None:
    with pytest.raises(PackageError, match="pin an archive"):
        Package.open(f"memory://bucket/folder#sha256={'0' * 64}")
    with pytest.raises(PackageError, match="pin an archive"):
        Package.open(f"{folder}#sha256={'0' * 64}")


def test_a_file_that_changes_while_it_is_read_is_noticed(
    memory: Any, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/bucket/m", large)
    with Package.open("memory://bucket/m") as package:
        memory.pipe("/bucket/m", large[:-1000])

        with pytest.raises(PackageError):
            package.folder()


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("memory://bucket/absent", PackageNotFoundError, "there is no package"),
        ("nosuchthing://bucket/m", SourceError, "Protocol not known"),
        ("http://host/m", PackageError, r"package\+http://host/m"),
        ("https://u:p@host/m?sig=1", PackageError, r"https:// names a server.*package\+https://host/m\?\.\.\.$"),
        ("grpc://host", PackageError, "names a server"),
        ("package+https:///m", PackageError, "names no host"),
        ("package+https://host:x/m", PackageError, "is no URL"),
        ("memory://bucket/m#sha256=12", PackageError, "64 hexadecimal"),
        ("memory://bucket/m#md5=12", PackageError, "pins nothing"),
        ("package+https://host/m#part", PackageError, "pins nothing"),
    ],
)
def test_urls_that_lead_nowhere_are_told(url: str, error: type[Exception], words: str, memory: Any) -> None:
    with pytest.raises(error, match=words):
        Package.open(url)


@pytest.mark.parametrize(
    ("url", "driver"), [("s3://b/m", "s3fs"), ("gs://b/m", "gcsfs"), ("hf://a/b/m", "huggingface_hub")]
)
def test_a_driver_that_is_missing_is_named(url: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(SourceError, match=f"run: pip install {driver}"):
        Package.open(url)


def test_the_extra_that_is_missing_is_named() -> None:
    program = """
import sys
sys.modules["fsspec"] = None
from neuropod_core import Package, SourceError
try:
    Package.open("s3://bucket/m")
except SourceError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert ran.stdout.strip().endswith("run: pip install 'neuropod-core[remote-files]'")


def test_core_imports_no_network_for_a_path(small: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(small)
    program = "import sys; from neuropod_core import Package; Package.open(sys.argv[1]); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m")], check=True, capture_output=True, text=True
    )

    assert not {"fsspec", "http.client", "urllib.request", "asyncio", "ssl"} & set(ran.stdout.split())


def test_transfers_are_logged(memory: Any, small: bytes, caplog: pytest.LogCaptureFixture) -> None:
    memory.pipe("/bucket/m", small)
    with caplog.at_level(logging.INFO, "neuropod"):
        Package.open("memory://bucket/m").folder()

    assert f"fetched memory://bucket/m: {len(small)} bytes, sha256={sha256(small).hexdigest()}" in caplog.text


@pytest.mark.parametrize("form", ["{path}#sha256={digest}", "file://{path}#sha256={digest}"])
def test_a_path_is_pinned_alike(form: str, small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(small)
    digest = sha256(small).hexdigest()

    load_neuropod(form.format(path=path, digest=digest.upper())).close()
    with pytest.raises(PackageIntegrityError) as caught:
        load_neuropod(form.format(path=path, digest="f" * 64))

    assert (caught.value.expected, caught.value.got) == ("sha256 " + "f" * 64, digest)


def test_a_path_object_is_a_path_whatever_it_looks_like(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / ("m#sha256=" + "0" * 64)
    path.write_bytes(small)

    assert Source.parse(path).sha256 == ""
    load_neuropod(path).close()
