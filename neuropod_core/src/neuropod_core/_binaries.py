"""Which machine a native library was built for, as the first bytes of its file say.

Source: the headers are those of System V's ABI (ELF), Apple's ``mach-o/loader.h`` and ``mach-o/fat.h``, and Microsoft's
PE/COFF specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from struct import Struct, error

__all__ = ["systems_and_machines"]

_HEADER_BYTES = 4096
_MOST_SLICES = 16  # Files of Java begin as universal libraries do, with a version of more than 40 in this place.

_ELF_SYSTEMS = {0: "linux", 3: "linux", 2: "netbsd", 6: "solaris", 9: "freebsd", 12: "openbsd"}
_ELF_MACHINES: Mapping[tuple[int, int], str] = {
    (1, 3): "x86",
    (2, 62): "x86_64",
    (1, 62): "x32",
    (1, 40): "arm",
    (2, 183): "aarch64",
    (1, 243): "riscv32",
    (2, 243): "riscv64",
    (2, 21): "ppc64",
    (2, 22): "s390x",
    (2, 258): "loongarch64",
}
_LITTLE_ENDIAN = 1
_MACH_MACHINES = {7: "x86", 0x01000007: "x86_64", 12: "arm", 0x0100000C: "aarch64"}
_MACH_THIN = {
    b"\xce\xfa\xed\xfe": "<I",
    b"\xcf\xfa\xed\xfe": "<I",
    b"\xfe\xed\xfa\xce": ">I",
    b"\xfe\xed\xfa\xcf": ">I",
}
_MACH_UNIVERSAL = {b"\xca\xfe\xba\xbe": 20, b"\xca\xfe\xba\xbf": 32}  # Bytes of one slice's entry.
_PE_MACHINES = {0x14C: "x86", 0x8664: "x86_64", 0x1C4: "arm", 0xAA64: "aarch64"}
_PE_OFFSET_AT = 0x3C


def systems_and_machines(library: Path) -> tuple[str, tuple[str, ...]]:
    """Read the header: ``("linux", ("x86_64",))``, several machines for a universal library, ``("", ())`` if unknown.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with library.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    try:
        if header.startswith(b"\x7fELF"):
            return _of_elf(header)
        if header.startswith(b"MZ"):
            return _of_pe(header)
        if header[:4] in _MACH_THIN:
            return _known("macos", (_MACH_MACHINES.get(_number(_MACH_THIN[header[:4]], header, 4), ""),))
        if header[:4] in _MACH_UNIVERSAL:
            return _of_universal(header, _MACH_UNIVERSAL[header[:4]])
    except (error, IndexError):  # Cut short.
        pass
    return "", ()


def _of_elf(header: bytes) -> tuple[str, tuple[str, ...]]:
    width, order, system = header[4], header[5], header[7]
    machine = _ELF_MACHINES.get((width, _number("<H" if order == _LITTLE_ENDIAN else ">H", header, 18)), "")
    return _known(_ELF_SYSTEMS.get(system, ""), (machine + "le" * (machine == "ppc64" and order == _LITTLE_ENDIAN),))


def _of_universal(header: bytes, entry_bytes: int) -> tuple[str, tuple[str, ...]]:
    count = _number(">I", header, 4)
    if count > _MOST_SLICES:
        return "", ()
    kinds = (_number(">I", header, 8 + place * entry_bytes) for place in range(count))
    return _known("macos", tuple(sorted({_MACH_MACHINES.get(kind, "") for kind in kinds})))


def _of_pe(header: bytes) -> tuple[str, tuple[str, ...]]:
    offset = _number("<I", header, _PE_OFFSET_AT)
    if header[offset : offset + 4] != b"PE\0\0":
        return "", ()
    return _known("windows", (_PE_MACHINES.get(_number("<H", header, offset + 4), ""),))


def _known(system: str, machines: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    known = tuple(machine for machine in machines if machine)
    return (system, known) if system and known else ("", ())


def _number(layout: str, header: bytes, offset: int) -> int:
    number: int = Struct(layout).unpack_from(header, offset)[0]
    return number
