"""Holds the tensors of a TorchScript archive against the bytes that are there.

An archive says in a pickle how many elements a tensor has, and keeps its bytes in a record of its own. torch believes
the first and does not look at the length of the second: where a record is shorter, it computes with whatever lies
behind it in memory, or dies. So the two are compared before torch opens a file; the pickle is read as opcodes, and
nothing in it is built or called. Source of the layout: pytorch/pytorch, torch/csrc/jit/serialization/pickler.cpp.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuropod_core.errors import ModelLoadError

__all__ = ["check_records"]

_ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("BFloat16", "Half", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
_TEXT, _GLOBAL, _LONG, _PERSISTENT = b"X", b"c", b"\x8a", b"Q"
_NUMBERS, _PUTS, _GETS = (b"K", b"M", b"J"), (b"q", b"r"), (b"h", b"j")
# Opcode -> its length with its argument, where that is fixed.
_LENGTHS: Mapping[bytes, int] = dict.fromkeys(
    (bytes([opcode]) for opcode in b"()]}.NQRabestu\x81\x85\x86\x87\x88\x89"), 1
) | {b"K": 2, b"M": 3, b"J": 5, b"q": 2, b"r": 5, b"h": 2, b"j": 5, b"G": 9, b"\x80": 2}


def check_records(path: Path) -> None:
    """Refuse an archive in which a tensor is longer than its bytes, or two records have one name.

    What is no archive, or no pickle, is left to torch, which says so.

    Raises
    ------
    ModelLoadError
        If one is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = next(_wrong(archive), "")
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        IndexError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ):
        return
    if wrong:
        raise ModelLoadError(f"the archive is damaged: {wrong}", "data/model.pt", "save it again by torch.jit.save")


def _wrong(archive: zipfile.ZipFile) -> Iterator[str]:
    entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        yield "two of its records have one name"
    for name in ("data", "constants"):
        for key, needed in _storages(_content(archive, entries.get(f"{name}.pkl"))):
            record = entries.get(f"{name}/{key}")
            if record is not None and record.file_size < needed:
                yield f"a tensor takes {needed} bytes of its record {name}/{key}, which has {record.file_size}"


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> bytes:
    if entry is None:
        return b""
    del entry.CRC  # Torch can be told to write none, and not to look.
    return archive.read(entry)


def _storages(content: bytes) -> Iterator[tuple[str, int]]:
    """Give key and bytes of each storage that a pickle refers to, as ('storage', type, key, device, elements)."""
    last: list[Any] = [None] * 4
    memo: dict[bytes, Any] = {}
    is_value = False
    for opcode, argument in _opcodes(content):
        if opcode in _PUTS:
            if is_value:
                memo[argument.rstrip(b"\0")] = last[-1]
            continue
        is_value = True
        if opcode in _GETS:
            last = [*last[1:], memo.get(argument.rstrip(b"\0"))]
        elif opcode in (_TEXT, _GLOBAL):
            last = [*last[1:], argument]
        elif opcode in _NUMBERS or opcode == _LONG:
            last = [*last[1:], int.from_bytes(argument, "little")]
        else:
            is_value = False
            if opcode == _PERSISTENT:
                yield from _storage(last)


def _opcodes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give each opcode with its argument, up to one that torch does not read either."""
    at = 0
    while at < len(content):
        opcode, start = content[at : at + 1], at + 1
        if opcode == _TEXT:
            start += 4
            at = start + int.from_bytes(content[start - 4 : start], "little")
        elif opcode == _GLOBAL:
            at = content.index(b"\n", content.index(b"\n", at) + 1) + 1
        elif opcode == _LONG:
            start += 1
            at = start + content[start - 1]
        else:
            at += _LENGTHS.get(opcode, len(content))
        yield opcode, content[start:at]


def _storage(values: list[Any]) -> Iterator[tuple[str, int]]:
    match values:
        case [bytes(kind), bytes(key), bytes(), int(elements)] if kind.startswith(b"torch\n"):
            name = kind.removeprefix(b"torch\n").removesuffix(b"Storage\n").decode("latin-1")
            yield key.decode("latin-1"), elements * _ITEM_BYTES.get(name, 1)
