"""What hostile input once did to us: each case has its own test."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from random import Random
from zipfile import ZipFile

import pytest

from neuropod_core._json import parse_object
from neuropod_core.backend import Backend, Descriptor, Executor, LoadOptions
from neuropod_core.errors import FrameworkVersionError, PackageError, PackageFormatError, SpecError
from neuropod_core.package import Package
from neuropod_core.plugins import check_framework
from neuropod_core.problem import Problem
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")], ids=["pipe", "device"])
def test_package_refuses_what_is_neither_file_nor_folder(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "package")

    with pytest.raises(PackageFormatError, match="neither a file nor a folder"):
        Package.open(tmp_path / "package")


@pytest.mark.timeout(20)
def test_json_finds_a_key_that_comes_twice_among_many() -> None:
    keys = ",".join(f'"{index}":0' for index in range(300_000))

    with pytest.raises(PackageFormatError, match="key '299999' comes twice"):
        parse_object(f'{{{keys},"299999":1}}'.encode(), "config.json")


@pytest.mark.parametrize("number", ["1e400", "-1e999", "NaN", "Infinity"])
def test_json_refuses_numbers_that_it_cannot_write(number: str) -> None:
    with pytest.raises(PackageFormatError, match="is no JSON"):
        parse_object(f'{{"a": [{number}]}}'.encode(), "config.json")


@pytest.mark.parametrize("depth", range(900, 1010, 5))
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_refuses_depth_before_python_does(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(PackageError):
        parse_object((opening * depth + "1" + closing * depth).encode(), "config.json")


@pytest.mark.timeout(20)
def test_problem_finds_a_name_that_comes_twice_among_many() -> None:
    specs = {"name": "x", "dtype": "int8", "shape": []}
    many = [{**specs, "name": f"x{index}"} for index in range(4_095)]

    with pytest.raises(SpecError, match="'x4094' named more than once"):
        Problem.of([*many, {**specs, "name": "x4094"}], [])


@pytest.mark.parametrize("source", ["file://[x", "file:///a%00b", "x://[", "file://", "\0", "", "~nobody", "a" * 5000])
def test_package_refuses_places_that_are_none(source: str) -> None:
    with pytest.raises(PackageError):
        Package.open(source)


class Framework(Backend):
    descriptor = Descriptor(platform="made-up", trust=Trust.DATA)

    def framework_version(self) -> str:
        return "2.13.0+cpu"

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        raise NotImplementedError


@pytest.mark.parametrize("version_range", ["a - b", "1.2.3 - 61 - x", ">=" * 128, "^" + "9" * 200, "\u0663.1"])
def test_framework_refuses_a_range_that_is_none(version_range: str) -> None:
    with pytest.raises((PackageFormatError, FrameworkVersionError)):
        check_framework(Framework(), version_range)


def test_framework_compares_any_range_or_refuses_it() -> None:
    chance = Random(1)  # noqa: S311 - the same ranges in each run
    parts = [*"0123456789.<>=^~ -|x*vXa+", "||", " - ", ">=", "1.2.3", "9" * 21]

    for _ in range(2000):
        text = "".join(chance.choices(parts, k=chance.choice((1, 3, 8, 30, 250))))[:256]
        with contextlib.suppress(PackageFormatError, FrameworkVersionError):
            assert check_framework(Framework(), text) == "2.13.0+cpu"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_archive_refuses_a_count_of_entries_that_is_not_theirs(count: int, tmp_path: Path) -> None:
    path = tmp_path / "package.neuropod"
    with ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("0/data", "")
    data = bytearray(path.read_bytes())
    data[-14:-10] = bytes([count, 0, count, 0])
    path.write_bytes(data)

    with pytest.raises(PackageFormatError, match=f"counts {count} entries, there are 2|{count} entries in"):
        Package.open(path)
