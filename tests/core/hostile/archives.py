"""Zip archives that lie: built byte by byte, or made of sound ones by damage."""

from __future__ import annotations

import io
import json
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import product
from typing import Any

CONFIG = json.dumps(
    {
        "name": "m",
        "platform": "torchscript",
        "input_spec": [{"name": "x", "dtype": "float32", "shape": ["N", 2]}],
        "output_spec": [{"name": "y", "dtype": "float32", "shape": [None]}],
    }
).encode()
FILES = {"config.json": CONFIG, "0/data/model.pt": bytes(range(256)) * 8, "0/code/a.py": b"print('never')\n" * 40}
REGULAR, LINK, FIFO, DEVICE = (kind << 16 for kind in (stat.S_IFREG, stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR))


@dataclass
class Entry:
    """One entry; what is not said is true."""

    name: str | bytes
    data: bytes = b""
    method: int = 0
    packed: bytes | None = None
    flags: int = 0x800
    mode: int = REGULAR
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    offset: int | None = None
    extra: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)

    def content(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method != zipfile.ZIP_DEFLATED:
            return self.data
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        return squeeze.compress(self.data) + squeeze.flush()

    def fields(self) -> dict[str, Any]:
        packed = self.content()
        name = self.name if isinstance(self.name, bytes) else self.name.encode()
        return {
            "name": name,
            "flags": self.flags,
            "method": self.method,
            "time": 0,
            "date": 0x2821,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
            "packed_size": len(packed) if self.packed_size is None else self.packed_size,
            "size": len(self.data) if self.size is None else self.size,
            "extra": self.extra,
        }


def _header(fields: dict[str, Any]) -> bytes:
    numbers = (fields[key] for key in ("flags", "method", "time", "date", "crc", "packed_size", "size"))
    return struct.pack("<HHHHLLLHH", *numbers, len(fields["name"]), len(fields["extra"]))


def archive(
    entries: list[Entry],
    *,
    prefix: bytes = b"",
    comment: bytes = b"",
    tail: bytes = b"",
    end: dict[str, int] | None = None,
) -> bytes:
    """Put entries together; `end` are lies in the end record."""
    body, directory = bytearray(prefix), bytearray()
    for entry in entries:
        fields = entry.fields()
        at = len(body) if entry.offset is None else entry.offset
        local = {**fields, **entry.local}
        body += b"PK\x03\x04\x14\x00" + _header(local) + local["name"] + local["extra"] + entry.content()
        directory += b"PK\x01\x02" + struct.pack("<HH", (3 << 8) | 20, 20) + _header(fields)
        directory += struct.pack("<HHHLL", 0, 0, 0, entry.mode & 0xFFFFFFFF, at) + fields["name"] + entry.extra
    said = {"disk": 0, "start_disk": 0, "here": len(entries), "count": len(entries)}
    said |= {"length": len(directory), "start": len(body), "comment_length": len(comment)} | (end or {})
    return bytes(body + directory + _end(*said.values()) + comment + tail)


def _end(*numbers: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", *numbers)


def sound(files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED, *, manifest: bool = True) -> bytes:
    """Write a sound package with the standard library."""
    listed = {name: sha256(data).hexdigest() for name, data in files.items()}
    written = (
        {**files, "manifest.json": json.dumps({"files": listed, "manifest_version": 1}).encode()} if manifest else files
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archived:
        for name, data in sorted(written.items()):
            archived.writestr(zipfile.ZipInfo(name), data, method)
    return target.getvalue()


def zip64(entries: list[Entry], **lies: int) -> bytes:
    """Put a zip64 end record and its locator before the end of an archive."""
    plain = archive(entries)
    end = plain[-22:]
    length, start = struct.unpack("<LL", end[12:20])
    said = {"size": 44, "count": len(entries), "length": length, "start": start, "at": len(plain) - 22} | lies
    counts = (said["count"], said["count"], said["length"], said["start"])
    record = struct.pack("<4sQHHLL4Q", b"PK\x06\x06", said["size"], 45, 45, 0, 0, *counts)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, said["at"], lies.get("disks", 1))
    return plain[:-22] + record + locator + _end(0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


BASE = [Entry(name, data) for name, data in FILES.items()]
PATHS = [
    "../evil",
    "0/../../evil",
    "..",
    ".",
    "",
    "/",
    "//",
    "0/./a",
    "0//a",
    "./a",
    "/etc/evil",
    "/CANARY/evil",
    "\\evil",
    "..\\evil",
    "0\\..\\..\\evil",
    "C:evil",
    "C:/evil",
    "C:\\evil",
    "c:",
    "0/data/../../../evil",
    "\0",
    "evil\0.txt",
    "evil\n",
    "evil\r",
    "\x1b[2J",
    "0/\u202eevil",
    "0/" + "a" * 300,
    "a/" * 600 + "a",
    "a/" * 70 + "a",
    "a" * 2000,
    "~/evil",
    "$HOME/evil",
    "con",
    "0/nul.txt",
    "0/a.",
    "0/a ",
    " ",
    "0/ /a",
    "...",
    "0/.../a",
    "%2e%2e/evil",
    "\u2025/evil",
    "\uff0e\uff0e/evil",
    "\u2215evil",
    "file:///evil",
    "\\\\server\\share\\evil",
    "manifest.json/",
    "config.json/x",
    "0",
    "0/data/model.pt/x",
    "0/data",
    "0/data/model.pt",
    "CONFIG.JSON",
    "0/DATA/model.pt",
    "0/Data/Model.pt",
]


def paths() -> Iterator[bytes]:
    """Every hostile path, as a file, a folder, raw bytes, a link, and a name that the local header contradicts."""
    for path in PATHS:
        yield archive([*BASE, Entry(path, b"evil")])
        yield archive([Entry(path, b"evil"), *BASE])
        yield archive([*BASE, Entry(path.rstrip("/") + "/", mode=stat.S_IFDIR << 16)])
        yield archive([*BASE, Entry(path, b"evil", flags=0)])
        yield archive([*BASE, Entry(path, b"/etc/passwd", mode=LINK)])
        yield archive([*BASE, Entry("0/innocent", b"evil", local={"name": path.encode()})])
        yield archive([*BASE, Entry(path, b"evil", local={"name": b"0/innocent"})])
        unicode_path = (
            struct.pack("<HHBL", 0x7075, len(path.encode()) + 5, 1, zlib.crc32(b"0/innocent")) + path.encode()
        )
        yield archive([*BASE, Entry("0/innocent", b"evil", extra=unicode_path)])


METHODS = (*range(20), 93, 95, 97, 98, 99, 0xFFFF)
NUMBERS = (0, 1, 3, 5, 255, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
EXTRAS = (
    *(b"\x01", b"\x01\x00\xff\xff", b"\x01\x00\x08\x00" + b"\xff" * 8, b"\x01\x00\x18\x00" + b"\xff" * 24),
    *(b"\x75\x70\x00\x00", b"\xff" * 40),
)


def entries() -> Iterator[bytes]:
    """Entries that lie about their kind, size, method or place."""
    for odd in _odd_entries():
        yield archive([*BASE, odd])
    for lie in _lies_about_config():
        yield archive([lie, *BASE[1:]])
    for mode in MODES:
        yield archive([*BASE, Entry("0/odd/", mode=mode), Entry("0/odd/evil", b"evil")])
    yield archive([*BASE, Entry("0/link", b"..", mode=LINK), Entry("0/link/evil", b"evil")])
    yield archive([*BASE, *BASE])
    yield archive([*BASE, Entry("config.json", b"{}")])
    yield archive([BASE[0], BASE[0]])


MODES = (LINK, FIFO, DEVICE, stat.S_IFSOCK << 16, stat.S_IFBLK << 16, stat.S_IFDIR << 16, 0, 0xFFFF << 16)


def _odd_entries() -> Iterator[Entry]:
    yield from (Entry("0/odd", b"../../evil", mode=mode) for mode in MODES)
    yield from (Entry("0/odd", b"evil" * 9, method=method, packed=b"evil" * 9) for method in METHODS)
    yield from (Entry("0/odd", b"evil", flags=1 << bit) for bit in range(16))
    yield from (Entry("0/odd", b"evil", local={"flags": 1 << bit}) for bit in range(16))
    for number, method in product(NUMBERS, (0, 8)):
        lies: list[dict[str, Any]] = [{key: number} for key in ("size", "packed_size", "crc", "offset")]
        yield from (Entry("0/odd", b"evil", method=method, **lie) for lie in lies)
        yield Entry("0/odd", b"evil", method=method, size=number, packed_size=number)
    for number, key in product(NUMBERS, ("size", "packed_size", "crc", "method")):
        yield Entry("0/odd", b"evil", local={key: number & 0xFFFF if key == "method" else number})
    for extra, size in product(EXTRAS, (4, 2**32 - 1)):
        yield Entry("0/odd", b"evil", extra=extra, size=size, packed_size=size)
        yield Entry("0/odd", b"evil", extra=extra, offset=size)
    yield Entry("0/other", b"", offset=0)
    yield Entry("0/other", CONFIG, offset=0, local={"name": b"config.json"})


def _lies_about_config() -> Iterator[Entry]:
    yield from (Entry("config.json", CONFIG, method=method, packed=CONFIG) for method in METHODS)
    yield from (Entry("config.json", CONFIG, flags=1 << bit) for bit in range(16))
    for number, method in product(NUMBERS, (0, 8)):
        lies: list[dict[str, Any]] = [{key: number} for key in ("size", "packed_size", "crc", "offset")]
        yield from (Entry("config.json", CONFIG, method=method, **lie) for lie in lies)
        yield Entry("config.json", CONFIG, method=method, size=number, crc=0)


JUNK = (
    *(b"x", b"PK\x05\x06", b"PK\x05\x06" + bytes(18), archive(BASE)[-22:], archive(BASE), b"\0" * 70_000),
    *(b"#!/bin/sh\n", b"PK\x06\x07" * 9),
)


def ends() -> Iterator[bytes]:
    """Archives whose end record, comment, prefix or tail lies."""
    plain = archive(BASE)
    for number in (0, 1, 2, 4, 22, 255, 256, 65534, 65535):
        for key in ("disk", "start_disk", "here", "count", "comment_length"):
            yield archive(BASE, end={key: number})
    for number in (0, 1, 45, 46, 47, 255, 10**6, 2**31, 2**32 - 1, len(plain), len(plain) - 22):
        for key in ("length", "start"):
            yield archive(BASE, end={key: number})
        yield archive(BASE, end={"length": number, "start": number})
    for junk in JUNK:
        yield archive(BASE, prefix=junk)
        yield archive(BASE, comment=junk[:65535])
        yield archive(BASE, tail=junk)
        yield junk + plain
        yield junk
    for key in ("size", "count", "length", "start", "at", "disks"):
        for number in (0, 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1):
            yield zip64(BASE, **{key: number & 0xFFFFFFFF if key == "disks" else number})
    yield zip64(BASE)
    yield b""
    yield b"PK"
    yield b"PK\x05\x06" + bytes(18)
    for cut in range(1, len(plain), 37):
        yield plain[:cut]
        yield plain[cut:]


def bombs() -> Iterator[bytes]:
    """Small archives that would be large, slow or many."""
    zeros = bytes(8 << 20)
    packed = Entry("", zeros, method=8).content()
    bomb = partial(Entry, method=8, packed=packed, size=len(zeros), crc=zlib.crc32(zeros))
    yield archive([*BASE, bomb("0/zeros")])
    yield archive([Entry("config.json", CONFIG + b" " * (8 << 20), method=8)])
    yield archive([*BASE, *(bomb(f"0/{index}") for index in range(8))])
    yield archive([*BASE, *(bomb(f"0/{index}") for index in range(1000))])
    at = sum(30 + len(str(entry.name)) + len(entry.content()) for entry in BASE)
    for shift in (0, 1, 30):
        shared = [
            bomb(f"0/{index:06}", packed=b"", packed_size=len(packed), offset=at + shift * index)
            for index in range(500)
        ]
        yield archive([*BASE, bomb("0/kernel"), *shared])
    inner = archive([bomb("zeros")])
    for _ in range(4):
        inner = archive([*BASE, *(Entry(f"0/{index}.zip", inner, method=8) for index in range(16))])
    yield inner
    yield archive([*BASE, *(Entry(f"0/{index}") for index in range(3000))])
    yield archive([*BASE, *(Entry(f"0/{index}/", mode=stat.S_IFDIR << 16) for index in range(3000))])
    deep = ["/".join(f"{index}{'ab'[depth % 2]}" for depth in range(60)) for index in range(1000)]
    yield archive([*BASE, *map(Entry, deep)])
    yield archive(BASE) + b"PK\x01\x02" * 100_000
    many = b"PK\x01\x02" + struct.pack("<HH", 788, 20) + bytes(42 - 4)
    directory = many * 40_000
    yield directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), 0, 0)
    yield directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 40_000, 40_000, len(directory), 0, 0)
    for name in ("manifest.json", "test_data.pkl", "test_data.safetensors", "0/config.json"):
        yield archive([*BASE, bomb(name)])
        yield archive([*BASE, Entry(name, b"[" * (3 << 20), method=8)])
        yield archive([*BASE, Entry(name, b'{"a":' * (1 << 19), method=8)])


SOUND = [
    sound(),
    sound(method=zipfile.ZIP_STORED),
    sound({**FILES, "extra.txt": b"abc" * 99}, manifest=False),
    sound({"config.json": CONFIG, "0/ops/lib.so": b"\x7fELF", "0/data/a/b/c": b""}),
]


WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0", b"PK\5\6")


def mutated(chance: random.Random) -> bytes:
    """Damage a sound archive: flip, overwrite, cut, insert, splice, or change a field of a header."""
    data = bytearray(chance.choice(SOUND))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place = chance.randrange(len(data)) if chance.random() < 0.4 else _structural(data, chance)
        match chance.randrange(7):
            case 0 | 1:
                data[place] ^= 1 << chance.randrange(8)
            case 2:
                data[place : place + 4] = chance.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0", b"PK\5\6")
                )
            case 3:
                del data[place : place + chance.choice((1, 2, 30, 1000))]
            case 4:
                data[place:place] = chance.randbytes(chance.choice((1, 2, 30)))
            case 5:
                other = chance.choice(SOUND)
                begin = chance.randrange(len(other))
                data[place:place] = other[begin : begin + chance.choice((4, 46, 300))]
            case _:
                data[place] = chance.choice(b"./\\:\0aPK\xff")
        if not data:
            break
    return bytes(data)


def _structural(data: bytearray, chance: random.Random) -> int:
    """A place in one of the headers."""
    at = [place for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for place in _all(data, mark)]
    return min(chance.choice(at) + chance.randrange(60), len(data) - 1) if at else chance.randrange(len(data))


def _all(data: bytearray, mark: bytes) -> Iterator[int]:
    place = data.find(mark)
    while place >= 0:
        yield place
        place = data.find(mark, place + 1)
