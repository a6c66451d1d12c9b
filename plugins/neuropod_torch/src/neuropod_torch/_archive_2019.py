"""Reads TorchScript archives of 2018 and 2019 (torch 1.0 to 1.3) as data: bounded, without running anything in them.

Such an archive is a zip file with ``model.json`` (a tree of modules, and a table of tensors with element types, sizes,
strides and offsets), ``tensors/`` (their bytes), ``code/`` (the source of each module's methods), ``libs/`` or
``libs.py`` (classes) and ``attributes.pkl`` (all other attributes, in one tuple). Source of the format:
pytorch/pytorch@0523d3f, torch/csrc/jit/serialization/import_legacy.cpp.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuropod_core.errors import ModelLoadError, shown
from neuropod_torch._pickle_2019 import read_attributes

__all__ = ["OldArchive", "OldModule", "OldTensor", "read_archive"]

_DTYPES: Mapping[str, tuple[str, int]] = {
    "FLOAT": ("Float", 4),
    "DOUBLE": ("Double", 8),
    "FLOAT16": ("Half", 2),
    "INT64": ("Long", 8),
    "INT32": ("Int", 4),
    "INT16": ("Short", 2),
    "INT8": ("Char", 1),
    "UINT8": ("Byte", 1),
    "BYTE": ("Byte", 1),
    "BOOL": ("Bool", 1),
}
_MOST_MODULES, _DEEPEST, _MOST_TENSORS, _MOST_RECORDS = 20_000, 100, 100_000, 200_000
_LONGEST_JSON, _MOST_DIMENSIONS = 64 << 20, 64
_HEADER = re.compile(r"op_version_set\s*=\s*\d+\s*\Z|import [\w.]+\s*\Z")
_METHOD = re.compile(r"def (\w+)\(self\b")


@dataclass(frozen=True)
class OldTensor:
    """One tensor of the table: a view of a record.

    Parameters
    ----------
    storage
        Name of the class of its storage, without ``Storage``.
    record
        Where its bytes lie, and how many elements they are.
    """

    storage: str
    record: str
    elements: int
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool


@dataclass
class OldModule:
    """One module of the tree."""

    submodules: dict[str, OldModule] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, tuple[str, Any]] = field(default_factory=dict)
    methods: str = ""
    state: tuple[Any] | None = None


@dataclass(frozen=True)
class OldArchive:
    """A whole archive; `records` are the bytes of its tensors, `libraries` the sources of its classes."""

    module: OldModule
    tensors: tuple[OldTensor, ...]
    records: Mapping[str, bytes]
    libraries: Mapping[str, str]


def read_archive(path: Path) -> OldArchive:
    """Read an archive.

    Raises
    ------
    ModelLoadError
        If it is damaged, or holds what the releases since 1.4 have no place for.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive).read()
    except ModelLoadError:
        raise
    except RecursionError as error:
        raise _refused("it is nested too deeply") from error
    except Exception as error:  # Whatever zipfile and wrong types raise.
        raise _refused(f"{type(error).__name__}: {error!s:.120}") from error


def _refused(what: str) -> ModelLoadError:
    told = " ".join(what.split())
    return ModelLoadError(
        f"the archive of torch 1.0 to 1.3 cannot be read: {told}",
        "data/model.pt",
        "save it again in a torch from 1.4 to 1.13",
    )


class _Reader:
    """Reads one open archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._entries = {_inside(entry.filename): entry for entry in archive.infolist()[:_MOST_RECORDS]}
        self._modules = 0

    def read(self) -> OldArchive:
        document = json.loads(self._record("model.json", _LONGEST_JSON))
        version = int(document.get("protoVersion", 1))
        if not 1 <= version <= 5:  # noqa: PLR2004 - the last of its kind
            raise _refused(f"protoVersion is {version}, known are 1 to 5")
        tensors = document.get("tensors", [])
        if len(tensors) > _MOST_TENSORS:
            raise _refused(f"at most {_MOST_TENSORS} tensors are read, these are {len(tensors)}")
        self._records: dict[str, bytes] = {}
        table = tuple(map(self._tensor, tensors))
        pickled = self._record("attributes.pkl") if version > 1 and "attributes.pkl" in self._entries else None
        self._attributes = read_attributes(pickled, len(table)) if pickled is not None else ()
        self._tensors = len(table)
        module = self._module(document["mainModule"], 0)
        return OldArchive(module, table, self._records, dict(self._libraries()))

    # Records

    def _record(self, name: str, most_bytes: int | None = None) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise _refused(f"it has no {shown(name)}")
        if entry.compress_type != zipfile.ZIP_STORED or (most_bytes is not None and entry.file_size > most_bytes):
            raise _refused(f"{shown(name)} is compressed or too long")
        return self._archive.read(entry)

    def _text(self, name: str) -> str:
        return self._record(name).decode("utf-8")

    # Tensors

    def _tensor(self, fields: Mapping[str, Any]) -> OldTensor:
        kind = fields.get("dataType", "")
        if kind not in _DTYPES or fields.get("isQuantized"):
            raise _refused(f"a tensor is {'quantized' if fields.get('isQuantized') else shown(kind)}")
        storage, item_bytes = _DTYPES[kind]
        record = fields["data"]["key"]
        if record not in self._records:
            self._records[record] = self._record(record)
        elements = len(self._records[record]) // item_bytes
        sizes, strides = _numbers(fields.get("dims", [])), _numbers(fields.get("strides", []))
        offset = _number(fields.get("offset", 0))
        _check_view(elements, offset, sizes, strides)
        return OldTensor(storage, record, elements, offset, sizes, strides, fields.get("requiresGrad") is True)

    # Modules

    def _module(self, fields: Mapping[str, Any], depth: int) -> OldModule:
        self._modules += 1
        if depth > _DEEPEST or self._modules > _MOST_MODULES:
            raise _refused(f"at most {_MOST_MODULES} modules are read, {_DEEPEST} levels deep")
        module = OldModule()
        for inner in fields.get("submodules", []):
            module.submodules[_name(inner["name"])] = self._module(inner, depth + 1)
        for one in fields.get("parameters", []):
            place = module.buffers if one.get("isBuffer") is True else module.parameters
            place[_name(one["name"])] = self._index(one.get("tensorId", 0), self._tensors)
        self._read_attributes(module, fields)
        if "torchscriptArena" in fields:
            module.methods = _methods(self._text(fields["torchscriptArena"]["key"]))
        return module

    def _read_attributes(self, module: OldModule, fields: Mapping[str, Any]) -> None:
        for one in fields.get("attributes", []):
            name, kind, place = _name(one["name"]), one["type"], int(one.get("id", -1))
            if name in module.buffers or name in module.parameters:
                continue
            if not isinstance(kind, str) or not re.fullmatch(r"[\w.,\[\] ()]{1,1000}", kind):
                raise _refused(f"attribute {shown(name)} is of type {shown(kind)}")
            value = self._attributes[self._index(place, len(self._attributes))] if place >= 0 else None
            module.attributes[name] = (kind, value)
        if "getStateAttributeId" in fields:
            place = self._index(fields["getStateAttributeId"], len(self._attributes))
            module.state = (self._attributes[place],)

    def _index(self, value: Any, count: int) -> int:
        place = _number(value)
        if place >= count:
            raise _refused(f"number {place} of a table of {count} is asked for")
        return place

    def _libraries(self) -> Iterator[tuple[str, str]]:
        """Give the source of classes: place below ``code/`` -> text."""
        for name in self._entries:
            if name == "libs.py" or (name.startswith("libs/") and name.endswith(".py")):
                text = _without_header(self._text(name))
                if text.strip():
                    yield ("__torch__.py" if name == "libs.py" else name.removeprefix("libs/")), text


def _inside(name: str) -> str:
    """Cut the folder that holds all records."""
    return name.partition("/")[2]


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.$]{1,200}", value):
        raise _refused(f"{shown(value)} is no name")
    return value


def _number(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool | float) or not 0 <= number < 1 << 62:
        raise _refused(f"{shown(value)} is no size")
    return number


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > _MOST_DIMENSIONS:
        raise _refused(f"{shown(values)} are no sizes")
    return tuple(map(_number, values))


def _check_view(elements: int, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Refuse a tensor that reaches beyond its record."""
    if len(sizes) != len(strides):
        raise _refused(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if 0 not in sizes and last >= elements:
        raise _refused(f"a tensor reaches to element {last} of a record of {elements}")


def _without_header(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not _HEADER.match(line)) + "\n"


def _methods(source: str) -> str:
    """Give the methods of a module; anything else at the outermost level is refused."""
    text = _without_header(source)
    for line in text.splitlines():
        if line.strip() and not line[0].isspace() and not _METHOD.match(line):
            raise _refused(f"its code has {shown(line)} where methods are expected")
    return text
