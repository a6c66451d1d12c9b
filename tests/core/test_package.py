from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import (
    Limits,
    Package,
    PackageError,
    PackageFormatError,
    PackageIntegrityError,
    PackageLimitError,
    PackageNotFoundError,
)

CONFIG = json.dumps({"name": "m", "platform": "calc", "input_spec": [], "output_spec": []}).encode()

Write = Callable[..., Path]


def zipped(path: Path, files: dict[str, bytes], **changes: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            for attribute, value in changes.items():
                setattr(entry, attribute, value)
            archive.writestr(entry, content)
    return path


def unpacked(path: Path) -> Path:
    with Package.open(path) as opened:
        return opened.folder()


def refused(path: Path, kind: type[PackageError], message: str) -> None:
    with pytest.raises(kind, match=message):
        unpacked(path)


@pytest.fixture(params=["archive", "folder"])
def package(request: pytest.FixtureRequest, write: Write, tmp_path: Path) -> Path:
    return write(tmp_path / "m.neuropod", package_as_zip=request.param == "archive")


def test_a_package_is_read(package: Path) -> None:
    with Package.open(package) as opened:
        assert opened.config.name == "add"
        assert opened.manifest is not None
        assert set(opened.files) == {"config.json", "manifest.json", "0/data/model.json"}
        assert opened.variant().artefact("data/model.json").read_bytes() == b'{"function": "add"}'
        assert opened.test_data() is None
        opened.verify()


def test_a_file_url_is_taken(package: Path) -> None:
    with Package.open(package.as_uri()) as opened:
        assert opened.path == package


@pytest.mark.parametrize("source", ["http://host/m", "https://host/m", "grpc://host", "s3://bucket/m", "file://host/m"])
def test_other_urls_are_refused(source: str) -> None:
    with pytest.raises(PackageError, match=source.partition(":")[0]):
        Package.open(source)


@pytest.mark.parametrize("source", ["absent.neuropod", "", "a\0b", "file:///absent", b"bytes"], ids=repr)
def test_nothing_is_no_package(source: str) -> None:
    with pytest.raises(PackageNotFoundError):
        Package.open(source)


def test_an_unpacked_file_cannot_be_written(write: Write, tmp_path: Path) -> None:
    with Package.open(write(tmp_path / "m.neuropod")) as opened:
        artefact = opened.variant().artefact("data/model.json")

    assert not artefact.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_an_absent_artefact_is_named(package: Path) -> None:
    with Package.open(package) as opened, pytest.raises(PackageFormatError, match="calc package has no 0/data/other"):
        opened.variant().artefact("data/other")


@pytest.mark.parametrize("path", ["../config.json", "data/../../config.json", "/etc/passwd", "data\0"], ids=repr)
def test_an_artefact_lies_inside_of_its_variant(path: str, package: Path) -> None:
    with Package.open(package) as opened, pytest.raises(PackageFormatError, match="leads out of the variant"):
        opened.variant().artefact(path)


# -- what the manifest says


def test_a_changed_file_is_found(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod", package_as_zip=False)
    unpacked(path)
    (path / "0/data/model.json").write_text('{"function": "dda"}')

    refused(path, PackageIntegrityError, "expected sha256 .* - at .*0/data/model.json")


@pytest.mark.parametrize("known", [False, True], ids=["new", "content known"])
def test_a_changed_archive_is_found(known: bool, write: Write, tmp_path: Path) -> None:
    path, changed = write(tmp_path / "m.neuropod"), tmp_path / "changed.neuropod"
    if known:
        unpacked(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    zipped(changed, {**files, "0/data/model.json": b'{"function": "dda"}'})

    refused(changed, PackageIntegrityError, "0/data/model.json")
    assert not list((tmp_path / "cache").rglob("unpacking/*"))


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, so that sizes follow the content."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += data
        return len(data)


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_was_streamed_is_read(compression: int, zip64: bool, write: Write, tmp_path: Path) -> None:
    path, pipe = write(tmp_path / "m.neuropod"), Pipe()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(pipe, "w", compression) as target:
        target.writestr("0/", b"")
        for name in source.namelist():
            with target.open(name, "w", force_zip64=zip64) as file:
                file.write(source.read(name))
    path.write_bytes(pipe.written)

    assert (unpacked(path) / "0/data/model.json").is_file()


def test_a_name_in_utf8_that_does_not_say_so_is_read(tmp_path: Path) -> None:
    """Info-ZIP's `zip` writes names as the file system has them, with no flag."""
    name = "0/data/naïve ü.txt"
    path = zipped(tmp_path / "m.neuropod", {"config.json": CONFIG, name: b"x"})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        flags = [archive.getinfo(name).header_offset + 6, content.rindex(b"PK\1\2") + 8]
    for at in flags:
        content[at : at + 2] = bytes(2)
    path.write_bytes(content)

    assert (unpacked(path) / name).read_bytes() == b"x"


def test_a_file_that_the_manifest_omits_is_found(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod", package_as_zip=False)
    (path / "0/extra").write_text("more")

    refused(path, PackageIntegrityError, "got one more - at .*0/extra; remove it")


def test_a_lost_file_is_found(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod", package_as_zip=False)
    (path / "0/data/model.json").unlink()

    refused(path, PackageIntegrityError, "expected the file that the manifest lists, got no such file")


def test_a_package_without_manifest_is_read(tmp_path: Path) -> None:
    with Package.open(zipped(tmp_path / "m.neuropod", {"config.json": CONFIG, "0/data/a": b"a"})) as opened:
        assert opened.manifest is None
        assert (opened.folder() / "0/data/a").read_bytes() == b"a"


def test_an_archive_that_was_replaced_lends_its_name_to_nothing(tmp_path: Path) -> None:
    """Without a manifest, the key of the cache is the hash of the archive: of the one that is unpacked."""
    path = zipped(tmp_path / "m.neuropod", {"config.json": CONFIG, "0/data": b"old"})
    other = zipped(tmp_path / "other.neuropod", {"config.json": CONFIG, "0/data": b"new"})
    with Package.open(path) as opened:
        other.replace(path)
        with pytest.raises(PackageIntegrityError, match="one that was changed since"):
            opened.folder()

    assert (unpacked(path) / "0/data").read_bytes() == b"new"


def test_a_custom_op_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = json.dumps({**json.loads(CONFIG), "custom_ops": ["op.so"]}).encode()
    with Package.open(zipped(tmp_path / "m.neuropod", {"config.json": config})) as opened:
        assert opened.has_custom_ops()
        with pytest.raises(PackageFormatError, match="has no 0/ops/op.so"):
            opened.variant()


def test_an_unlisted_library_counts_as_custom_op(tmp_path: Path) -> None:
    with Package.open(zipped(tmp_path / "m.neuropod", {"config.json": CONFIG, "0/ops/op.so": b""})) as opened:
        assert opened.has_custom_ops()


# -- hostile containers (tests/core/test_hostile_*.py has thousands of them)


@pytest.mark.parametrize("name", ["../out", "/abs", "a/../../out", "a\\b", "C:/x", "a//b", "./a", "a\nb", "a/", "a/."])
def test_a_path_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.neuropod", {"config.json": CONFIG, name: b"x"})

    refused(path, PackageFormatError, "relative path inside|folder with content")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.neuropod"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["0/a", "0/a/b"])
def test_paths_that_meet_are_refused(second: str, tmp_path: Path) -> None:
    path = tmp_path / "m.neuropod"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("config.json", "0/a", second):
            archive.writestr(name, CONFIG)

    refused(path, PackageFormatError, "comes twice, or is both a file and a folder")


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.neuropod", {"config.json": CONFIG}, external_attr=(stat.S_IFLNK | 0o777) << 16)

    refused(path, PackageFormatError, "is a link or another special file")


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo], ids=["link", "fifo"])
def test_links_and_special_files_in_folders_are_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "m.neuropod"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    make(folder / "other")

    refused(folder, PackageFormatError, "'other' is (a link|no regular file)")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.neuropod"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", CONFIG)
        with archive.open("0/zeros", "w") as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))

    refused(path, PackageLimitError, "bytes unpacked from")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(files=2), "at most 2 files"),
        (Limits(path_characters=5), "at most 5 characters of a path"),
        (Limits(path_depth=2), "at most 2 folders in a path"),
        (Limits(json_bytes=10), "at most 10 bytes"),
        (Limits(manifest_bytes=10), "at most 10 bytes are read, this has .*manifest.json"),
        (Limits(total_bytes=100), "at most 100 bytes in all files"),
    ],
    ids=str,
)
def test_limits_are_kept(limits: Limits, message: str, package: Path) -> None:
    with pytest.raises(PackageLimitError, match=message):
        Package.open(package, limits=limits)


@pytest.mark.parametrize("cut", [1, 22, 100, 400])
def test_a_truncated_archive_is_refused(cut: int, write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod")
    path.write_bytes(path.read_bytes()[:-cut])

    refused(path, PackageFormatError, "no zip archive|no sound zip archive")


@pytest.mark.parametrize("extra", [b"before", b"x" * 100_000])
def test_something_around_an_archive_is_refused(extra: bytes, write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod")
    content = path.read_bytes()
    for changed in (extra + content, content + extra):
        path.write_bytes(changed)
        refused(path, PackageFormatError, "no sound zip archive|no end record")


def test_an_empty_file_is_no_package(tmp_path: Path) -> None:
    path = tmp_path / "m.neuropod"
    path.touch()

    refused(path, PackageFormatError, "no end record")


def test_an_unreadable_compression_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.neuropod", {"config.json": CONFIG}, compress_type=zipfile.ZIP_LZMA)

    refused(path, PackageFormatError, "compression method 14")


def test_reading_on_after_close_opens_again(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "m.neuropod")
    with Package.open(path) as opened:
        pass
    assert opened.read("0/data/model.json") == b'{"function": "add"}'

    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(PackageError):
        opened.read("0/data/model.json")
