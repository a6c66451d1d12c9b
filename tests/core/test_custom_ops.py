"""Libraries of custom operators: for which machine, and once per process."""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core import (
    CustomOpError,
    ModelLoadError,
    Package,
    PackageFormatError,
    PackagingError,
    Problem,
    Variant,
    custom_ops,
    load_neuropod,
)
from neuropod_core.config import Config
from neuropod_core.custom_ops import bytes_of, for_this_machine, load_once, loaded_once, target_of, this_machine
from neuropod_core.packaging import repack

Write = Callable[..., Path]
EXTENSION = next(Path(np.__file__).parent.rglob("_multiarray_umath*.so"))  # It is in this process.


def elf(machine: int, *, width: int = 2, order: int = 1, system: int = 0) -> bytes:
    return b"\x7fELF" + bytes([width, order, 1, system]) + bytes(8) + struct.pack("<>"[order - 1] + "HH", 3, machine)


def mach(kind: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", 0xFEEDFACF, kind)


def universal(*kinds: int) -> bytes:
    entries = [struct.pack(">IIIII", kind, 0, 0, 0, 0) for kind in kinds]
    return struct.pack(">II", 0xCAFEBABE, len(kinds)) + b"".join(entries)


def portable(machine: int, offset: int = 0x80) -> bytes:
    start = b"MZ" + bytes(0x3A) + struct.pack("<I", offset)
    return start + bytes(offset - 0x40) + b"PE\0\0" + struct.pack("<H", machine)


HEADERS = {
    "linux-x86_64": elf(62),
    "linux-x86": elf(3, width=1),
    "linux-aarch64": elf(183, system=3),
    "linux-riscv64": elf(243),
    "linux-ppc64le": elf(21),
    "linux-ppc64": elf(21, order=2),
    "linux-s390x": elf(22, order=2),
    "freebsd-x86_64": elf(62, system=9),
    "macos-x86_64": mach(0x01000007),
    "macos-aarch64": mach(0x0100000C),
    "macos-aarch64+x86_64": universal(0x01000007, 0x0100000C),
    "windows-x86_64": portable(0x8664),
    "windows-aarch64": portable(0xAA64, 0xF0),
    "windows-x86": portable(0x14C),
}
UNKNOWN = {
    "nothing": b"",
    "text": b"no library",
    "a script": b"#!/bin/sh\n",
    "a class of Java": struct.pack(">IHH", 0xCAFEBABE, 0, 65),
    "ELF cut short": elf(62)[:18],
    "Mach-O cut short": mach(7)[:6],
    "a universal library cut short": universal(7, 12)[:20],
    "PE cut short": portable(0x8664)[:-1],
    "PE beyond its end": b"MZ" + bytes(0x3A) + struct.pack("<I", 2**31),
    "an unknown machine": elf(9999),
    "an unknown system": elf(62, system=200),
}


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_ops, "_loaded", {})


@pytest.fixture
def library(tmp_path: Path) -> Callable[..., Path]:
    def written(content: bytes, name: str = "libown.so") -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return written


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def is_(system: str, machine: str) -> None:
        monkeypatch.setattr("sys.platform", system)
        monkeypatch.setattr("platform.machine", lambda: machine)

    return is_


# -- which machine


@pytest.mark.parametrize(("target", "header"), HEADERS.items(), ids=HEADERS)
def test_target_is_read_from_the_header(target: str, header: bytes, library: Any) -> None:
    assert target_of(library(header)) == target_of(library(header + bytes(10_000))) == target


@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_no_library_has_no_target(content: bytes, library: Any) -> None:
    assert target_of(library(content)) == ""


@given(st.sampled_from(sorted(HEADERS)), st.data())
def test_no_content_makes_the_reader_fail(name: str, data: st.DataObject) -> None:
    header = bytearray(HEADERS[name])
    for place in data.draw(st.lists(st.integers(0, len(header) - 1), max_size=6)):
        header[place] = data.draw(st.integers(0, 255))
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(header[: data.draw(st.integers(0, len(header)))])
        file.flush()
        assert isinstance(target_of(Path(file.name)), str)


def test_libraries_of_this_process_are_for_this_machine() -> None:
    assert target_of(EXTENSION) == this_machine()


@pytest.mark.parametrize(
    ("system", "machine", "target"),
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("linux", "aarch64", "linux-aarch64"),
        ("darwin", "arm64", "macos-aarch64"),
        ("win32", "AMD64", "windows-x86_64"),
        ("win32", "ARM64", "windows-aarch64"),
        ("freebsd14", "amd64", "freebsd-x86_64"),
    ],
)
def test_machines_have_one_name(system: str, machine: str, target: str, here: Any) -> None:
    here(system, machine)

    assert this_machine() == target


def test_a_process_of_32_bits_is_another_machine(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here("linux", "x86_64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)

    assert this_machine() == "linux-x86"


def variant_of(folder: Path, **contents: bytes) -> Variant:
    paths = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    return Variant("calc", folder, Problem.of({}, {}), "m", custom_ops=tuple(paths))


def test_only_libraries_of_this_machine_are_kept(tmp_path: Path, here: Any) -> None:
    contents = {
        "linux": HEADERS["linux-x86_64"],
        "mac": HEADERS["macos-aarch64+x86_64"],
        "win": HEADERS["windows-x86_64"],
    }
    variant = variant_of(tmp_path, **contents, riddle=b"?")

    for system, machine, kept in (
        ("linux", "x86_64", ["linux", "riddle"]),
        ("darwin", "arm64", ["mac", "riddle"]),
        ("win32", "AMD64", ["win", "riddle"]),
        ("linux", "riscv64", ["riddle"]),  # Its framework will say what it is.
    ):
        here(system, machine)
        assert [path.name for path in for_this_machine(variant, {}).custom_ops] == kept


def test_no_library_for_this_machine_is_an_error_that_names_both(tmp_path: Path, here: Any) -> None:
    here("linux", "x86_64")
    variant = variant_of(tmp_path, a=HEADERS["linux-aarch64"], b=HEADERS["macos-aarch64"])

    with pytest.raises(
        CustomOpError,
        match="for linux-x86_64 \\(there are a: linux-aarch64, b: macos-aarch64\\) - at m;",
    ) as raised:
        for_this_machine(variant, {"a": "linux-aarch64"})
    assert isinstance(raised.value, ModelLoadError)


@pytest.mark.parametrize("declared", ["macos-arm64", "linux-x86_64", "macos-aarch64+x86_64"])
def test_a_header_that_contradicts_the_package_is_refused(declared: str, tmp_path: Path, here: Any) -> None:
    here("darwin", "arm64")
    variant = variant_of(tmp_path, a=HEADERS["macos-aarch64"])

    if declared == "macos-arm64":  # Another name for it.
        assert for_this_machine(variant, {"a": declared}).custom_ops
        return
    with pytest.raises(CustomOpError, match="built for .*, its header says macos-aarch64 - at ops/a"):
        for_this_machine(variant, {"a": declared})


def test_variants_without_libraries_stay_as_they_are(tmp_path: Path) -> None:
    variant = variant_of(tmp_path)

    assert for_this_machine(variant, {}) is variant


def test_packages_record_what_their_libraries_are_for(write: Write, tmp_path: Path, library: Any) -> None:
    own, riddle = Path(shutil.copyfile(EXTENSION, tmp_path / "own.so")), library(b"?", "riddle.so")
    foreign = library(HEADERS["windows-aarch64"], "own.dll")

    path = write(tmp_path / "m.neuropod", custom_ops=[own, foreign, riddle])

    with Package.open(path) as package:
        assert package.config.custom_op_targets == {"own.so": this_machine(), "own.dll": "windows-aarch64"}
        assert [file.name for file in package.variant().custom_ops] == ["own.so", "own.dll", "riddle.so"]
    load_neuropod(path, trust="code").close()


def test_a_package_for_other_machines_alone_is_not_loaded(write: Write, tmp_path: Path, library: Any) -> None:
    with pytest.raises(PackagingError, match=f"no custom operators for {this_machine()} .* own.dll: windows-aarch64"):
        write(tmp_path / "m.neuropod", custom_ops=[library(HEADERS["windows-aarch64"], "own.dll")])


def test_targets_survive_a_rewrite(write: Write, tmp_path: Path) -> None:
    own = Path(shutil.copyfile(EXTENSION, tmp_path / "own.so"))
    repack(write(tmp_path / "m.neuropod", custom_ops=[own]), tmp_path / "n.neuropod")

    with Package.open(tmp_path / "n.neuropod") as package:
        assert package.config.custom_op_targets == {"own.so": this_machine()}


@pytest.mark.parametrize(
    "targets",
    [
        [],
        "linux-x86_64",
        {"b.so": "linux-x86_64"},
        {"a.so": 3},
        {"a.so": "linux"},
        {"a.so": f"{'x' * 99}-y"},
        {"a.so": "A-B"},
    ],
    ids=str,
)
def test_targets_that_cannot_be_are_refused(targets: Any) -> None:
    raw = json.loads(Config("m", "calc", Problem.of({}, {}), custom_ops=("a.so",)).to_bytes())

    with pytest.raises(PackageFormatError, match="custom_op_targets"):
        Config.from_bytes(json.dumps({**raw, "custom_op_targets": targets}).encode())


# -- once per process


def test_each_content_is_loaded_once_for_each_framework(library: Any) -> None:
    first, copy, other = library(b"a", "1.so"), library(b"a", "2.so"), library(b"b", "3.so")
    loaded: list[str] = []

    def load(path: Path) -> None:
        loaded.append(path.name)

    load_once("torch 2", [first, copy], load)
    load_once("torch 3", [copy, other], load)
    load_once("tensorflow 2", [copy], load)

    assert loaded == ["1.so", "3.so", "2.so"]


def test_what_was_loaded_is_given_again(library: Any) -> None:
    assert loaded_once("f", library(b"a", "1.so"), str) == str(library(b"a", "1.so"))
    assert loaded_once("f", library(b"a", "2.so"), str) == str(library(b"a", "1.so"))


def test_a_library_that_failed_is_tried_again(library: Any) -> None:
    tries: list[Path] = []

    def load(path: Path) -> None:
        tries.append(path)
        if len(tries) == 1:
            raise OSError("undefined symbol: x\nstack")

    with pytest.raises(
        CustomOpError,
        match="operators: undefined symbol: x - at ops/libown.so; build the library",
    ) as raised:
        load_once("torch 2", [library(b"a")], load)
    load_once("torch 2", [library(b"a")], load)

    assert isinstance(raised.value.__cause__, OSError)
    assert len(tries) == 2


@pytest.mark.parametrize("said", ["Only a single TORCH_LIBRARY can be", "X is already registered", "duplicate kernels"])
def test_a_clash_names_the_worker(said: str, library: Any) -> None:
    def load(path: Path) -> None:
        raise RuntimeError(said)

    with pytest.raises(CustomOpError, match="; run the model in a process of its own: .*placement='worker'"):
        load_once("torch 2", [library(b"a")], load)


def test_the_cause_is_told_rather_than_what_wraps_it(library: Any) -> None:
    def load(path: Path) -> None:
        raise OSError(f"Could not load {path}") from OSError("libfoo.so: cannot open shared object file")

    with pytest.raises(CustomOpError, match="operators: libfoo.so: cannot open shared object file - at"):
        load_once("torch 2", [library(b"a")], load)


def test_a_library_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CustomOpError, match="No such file"):
        load_once("torch 2", [tmp_path / "gone.so"], print)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_a_copy_of_what_this_process_runs_counts_as_loaded(tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(EXTENSION, tmp_path / "copy.so"))

    def load(path: Path) -> None:
        pytest.fail(f"loads {path}")

    for path in (copy, EXTENSION):
        load_once("torch 2", [path], load)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_a_library_that_is_read_and_not_run_does_not_count(tmp_path: Path) -> None:
    copy = tmp_path / "copy.so"
    copy.write_bytes(EXTENSION.read_bytes() + b"\0")  # Other content, still a library.
    loaded: list[Any] = []

    with bytes_of(copy) as content:
        assert content[:4] == b"\x7fELF"
        load_once("torch 2", [copy], lambda path: loaded.append(ctypes.CDLL(str(path))))

    assert len(loaded) == 1
