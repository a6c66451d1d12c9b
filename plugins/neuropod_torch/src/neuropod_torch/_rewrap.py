"""Writes an old archive anew in the format of torch 1.4 and later: the same sources, weights and attributes."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuropod_core.errors import ModelLoadError
from neuropod_torch._archive_2019 import OldArchive, OldModule, OldTensor, read_archive
from neuropod_torch._pickle_2019 import TensorReference

__all__ = ["rewrapped"]

_VERSION = "3"  # Torch translates what operators meant then.
_CONSTANT = re.compile(r"CONSTANTS\.c(\d{1,9})\b")
_METHOD = re.compile(r"(?m)^def (\w+)\(self\b")


def rewrapped(path: Path) -> io.BytesIO:
    """Give an archive of torch 1.0 to 1.3 as one that today's ``torch.jit.load`` reads.

    Raises
    ------
    ModelLoadError
        If it cannot be read, or translated.
    """
    old = read_archive(path)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _Writer(old).files():
            archive.writestr(f"model/{name}", content)
    target.seek(0)
    return target


class _Writer:
    """Gives each module a class of its own, in the order of a walk."""

    def __init__(self, old: OldArchive) -> None:
        self._old = old
        self._classes: list[str] = []

    def files(self) -> Iterator[tuple[str, bytes | str]]:
        """Give each file of the new archive."""
        body = _Pickle(self._old, "data")
        state = self._module(self._old.module, body)
        libraries = dict(self._old.libraries)
        sources = "".join(self._classes) + libraries.pop("__torch__.py", "")
        yield "code/__torch__.py", sources
        for name, text in libraries.items():
            yield f"code/{name}", text
        yield "data.pkl", body.whole(state)
        yield from body.records()
        yield from self._constants("".join([sources, *libraries.values()]))
        yield "version", f"{_VERSION}\n"

    def _constants(self, sources: str) -> Iterator[tuple[str, bytes]]:
        """Write the tensors that sources name; the others keep their numbers."""
        named = {int(number) for number in _CONSTANT.findall(sources)}
        if named and max(named) >= len(self._old.tensors):
            what = f"its code names constant {max(named)} of {len(self._old.tensors)}"
            raise ModelLoadError(f"the archive of torch 1.0 to 1.3 cannot be read: {what}", "data/model.pt")
        pickle = _Pickle(self._old, "constants")
        values = tuple(
            TensorReference(index) if index in named else None for index in range(max(named, default=-1) + 1)
        )
        yield "constants.pkl", pickle.whole(pickle.value(values))
        yield from pickle.records()

    def _module(self, module: OldModule, pickle: _Pickle) -> bytes:
        """Write the class of a module, and give its object; both take in what is below it."""
        name = f"NeuropodModule{len(self._classes)}"
        self._classes.append("")
        place = len(self._classes) - 1
        kinds: dict[str, str] = {}
        values: dict[str, bytes] = {}
        for inner, submodule in module.submodules.items():
            kinds[inner] = f"__torch__.NeuropodModule{len(self._classes)}"
            values[inner] = self._module(submodule, pickle)
        for inner, index in (*module.parameters.items(), *module.buffers.items()):
            kinds[inner], values[inner] = "Tensor", pickle.value(TensorReference(index))
        for inner, (kind, value) in module.attributes.items():
            kinds[inner], values[inner] = kind, pickle.tagged(value, kind)
        kinds.setdefault("training", "bool")
        values.setdefault("training", pickle.value(False))  # noqa: FBT003 - a value like others
        self._classes[place] = _class(name, module, kinds)
        state = pickle.value(module.state[0]) if module.state is not None else pickle.dictionary(values)
        return b"c__torch__\n" + name.encode() + b"\n)\x81" + state + b"b"


def _class(name: str, module: OldModule, kinds: dict[str, str]) -> str:
    methods = _METHOD.sub(rf"def \1(self: __torch__.{name}", module.methods)
    lines = [
        f"class {name}(Module):",
        f"  __parameters__ = [{''.join(f'{_quoted(one)}, ' for one in module.parameters)}]",
        f"  __buffers__ = [{''.join(f'{_quoted(one)}, ' for one in module.buffers)}]",
        *(f"  __annotations__[{_quoted(one)}] = {kind}" for one, kind in kinds.items()),
        *(f"  {line}" if line.strip() else "" for line in methods.splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return f'"{name}"'  # Names are words: see `read_archive`.


class _Pickle:
    """Writes values as the loader of torch reads them, and knows which records they need."""

    def __init__(self, old: OldArchive, folder: str) -> None:
        self._old, self._folder = old, folder
        self._keys: dict[str, str] = {}

    def whole(self, value: bytes) -> bytes:
        return b"\x80\x02" + value + b"."

    def records(self) -> Iterator[tuple[str, bytes]]:
        for record, key in self._keys.items():
            yield f"{self._folder}/{key}", self._old.records[record]

    def tagged(self, value: Any, kind: str) -> bytes:
        """Write a value with its type where its elements may not tell it."""
        written = self.value(value)
        if not isinstance(value, list | dict):
            return written
        return b"ctorch.jit._pickle\nrestore_type_tag\n" + written + self.value(kind) + b"\x86R"

    def value(self, value: Any) -> bytes:
        if isinstance(value, TensorReference):
            return self._tensor(self._old.tensors[value.index])
        if isinstance(value, dict):
            return self.dictionary({key: self.value(item) for key, item in value.items()})
        if isinstance(value, list):
            return b"](" + b"".join(map(self.value, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.value, value)) + b"t"
        return _scalar(value)

    def dictionary(self, items: dict[Any, bytes]) -> bytes:
        return b"}(" + b"".join(self.value(key) + item for key, item in items.items()) + b"u"

    def _tensor(self, tensor: OldTensor) -> bytes:
        key = self._keys.setdefault(tensor.record, str(len(self._keys)))
        storage = self.value("storage") + f"ctorch\n{tensor.storage}Storage\n".encode()
        storage = b"(" + storage + self.value(key) + self.value("cpu") + self.value(tensor.elements) + b"tQ"
        view = self.value(tensor.offset) + self.value(tensor.sizes) + self.value(tensor.strides)
        hooks = b"ccollections\nOrderedDict\n)R"
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + self.value(tensor.requires_grad) + hooks + b"tR"
        )


def _scalar(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return (
            b"J" + struct.pack("<i", value) if -(1 << 31) <= value < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)
        )
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    text = str(value).encode()
    return b"X" + struct.pack("<I", len(text)) + text
