"""What hostile input once did to us: each case has its own test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuropod_core._json import parse_object
from neuropod_core.errors import PackageError, PackageFormatError, SpecError
from neuropod_core.package import Package
from neuropod_core.problem import Problem


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
    many = [{**specs, "name": f"x{index}"} for index in range(50_000)]

    with pytest.raises(SpecError, match="'x49999' named more than once"):
        Problem.of([*many, {**specs, "name": "x49999"}], [])


@pytest.mark.parametrize("source", ["file://[x", "file:///a%00b", "x://[", "file://", "\0", "", "~nobody", "a" * 5000])
def test_package_refuses_places_that_are_none(source: str) -> None:
    with pytest.raises(PackageError):
        Package.open(source)
