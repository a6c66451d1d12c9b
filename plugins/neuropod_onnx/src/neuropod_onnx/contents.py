"""What a model file says about itself, read from its bytes before ONNX Runtime opens it.

Operators of ONNX compute, but a *tensor* may name a file, by any path, in which its values lie; and a few operators of
vendors carry compiled code. Packages of class ``data`` promise to do neither, so both are looked for here, in every
place of the format that can hold a tensor or an operator, without the package `onnx`.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path, PurePosixPath

from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelLoadError, PackageFormatError, PackageLimitError, shown
from neuropod_onnx._types import ELEMENT_TYPES, element_name
from neuropod_onnx._wire import Bytes, MalformedError, TooManyFieldsError, Wire, signed

__all__ = ["Contents", "Declared", "External", "check_external", "parse_contents", "read_contents"]

_MOST_FIELDS = 1_500_000
_MOST_NESTED = 100  # Protocol Buffers' own limit.
_MOST_DIMENSIONS = 64
_MOST_ENTRIES = 16  # The format knows five keys.
_LONGEST_LOCATION = 4096

# Field numbers of onnx.proto: which messages lie in which, as far as tensors and operators can lie in them.
_NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_LEAVES = {"graph": (11, 12), "node": (4,)}
_GRAPH_INPUT, _OP_TYPE = 11, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13
_TENSOR_FIELDS = (1, 2, 8, 13)
_VALUE_TYPE = 2
_KINDS = {1: "tensor", 4: "seq", 5: "map", 8: "sparse_tensor", 9: "optional"}
_TENSOR_KINDS = (1, 8)

# Engines of vendors; Python, and operators of other frameworks, by name.
_CODE_OPERATORS = (b"EPContext", b"Snpe", b"PythonOp", b"PyOp", b"TritonOp", b"ATen")
_TELLING = re.compile(b"location|" + b"|".join(_CODE_OPERATORS))


@dataclass(frozen=True)
class Declared:
    """An input or output as the file declares it; `dtype` and `shape` are None where it does not say.

    `type_name` is its type as ONNX Runtime writes it, ``seq(tensor(float))``; empty where the file does not say.
    """

    name: str
    dtype: DType | None
    shape: tuple[int | str | None, ...] | None
    optional: bool = False
    type_name: str = field(default="", compare=False)


@dataclass(frozen=True)
class External:
    """A tensor whose values lie in another file, in the file's words. `bytes_needed` is 0 where it is not known."""

    tensor: str
    entries: tuple[tuple[str, str], ...]
    bytes_needed: int = 0

    def values(self, key: str) -> tuple[str, ...]:
        """Give every value of a key, however often it comes: which one counts is up to the reader."""
        return tuple(value for name, value in self.entries if name == key)


@dataclass
class Contents:
    """What was found in a model file."""

    inputs: dict[str, Declared] = field(default_factory=dict)
    outputs: dict[str, Declared] = field(default_factory=dict)
    initializers: set[str] = field(default_factory=set)
    external: list[External] = field(default_factory=list)
    code_operator: str = ""


def read_contents(path: Path) -> Contents:
    """Look into the model file at `path`.

    Raises
    ------
    ModelLoadError
        If it is no ONNX model.
    PackageLimitError
        If it has more parts than are looked at.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=4)  # Trust is asked for first, then the model is opened: one look serves both.
def _read(path: Path, _identity: tuple[int, ...]) -> Contents:
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    with data:
        return parse_contents(data, path.name)


def _unreadable(path: Path, error: Exception) -> ModelLoadError:
    return ModelLoadError(f"cannot be read as a model: {error}", at=path.name)


def parse_contents(data: Bytes, name: str = "model.onnx") -> Contents:
    """Look into the bytes of a model; `name` is for the error."""
    found = Contents()
    try:
        _Search(Wire(data, _MOST_FIELDS), found).message("model", 0, len(data), 0)
    except MalformedError as error:
        raise ModelLoadError("the file is no ONNX model", at=name, remedy="package it again") from error
    except TooManyFieldsError as error:
        raise PackageLimitError("parts of a model", _MOST_FIELDS, _MOST_FIELDS + 1, at=name) from error
    return found


@dataclass(frozen=True)
class _Type:
    name: str = ""
    dtype: DType | None = None
    shape: tuple[int | str | None, ...] | None = None
    optional: bool = False


class _Search:
    def __init__(self, wire: Wire, found: Contents) -> None:
        self._wire, self._found = wire, found

    def message(self, kind: str, start: int, stop: int, depth: int) -> None:
        """Look through one message and those that lie in it."""
        if depth > _MOST_NESTED:
            raise MalformedError
        nested = _NESTED[kind]
        for number, first, last in self._wire.fields(start, stop, (*nested, *_LEAVES.get(kind, ()))):
            inner = nested.get(number)
            if last < 0:
                raise MalformedError  # A number where a message belongs.
            if inner == "tensor":
                self._tensor(first, last, is_initializer=kind == "graph" and depth == 1)
            elif inner is None:
                self._leaf(number, depth, first, last)
            elif inner != "node" or self._wire.mentions(_TELLING, first, last):
                self.message(inner, first, last, depth + 1)

    def _leaf(self, number: int, depth: int, start: int, stop: int) -> None:
        if number == _OP_TYPE:
            if self._wire.content(start, stop) in _CODE_OPERATORS:
                self._found.code_operator = self._text(start, stop)
        elif depth == 1:
            side = self._found.inputs if number == _GRAPH_INPUT else self._found.outputs
            declared = self._declared(start, stop)
            side[declared.name] = declared

    def _tensor(self, start: int, stop: int, *, is_initializer: bool) -> None:
        dims: list[int] = []
        element, name, entries = 0, "", []
        for number, first, last in self._wire.fields(start, stop, _TENSOR_FIELDS):
            if number == _TENSOR_DIMS:
                dims += [signed(first)] if last < 0 else self._wire.numbers(first, last)
            elif number == _TENSOR_TYPE and last < 0:
                element = first
            elif number == _TENSOR_NAME and last >= 0:
                name = self._text(first, last)
            elif number == _TENSOR_EXTERNAL and last >= 0:
                entries.append(self._entry(first, last))
                if len(entries) > _MOST_ENTRIES:
                    raise MalformedError
        if is_initializer:
            self._found.initializers.add(name)
        if entries:
            self._found.external.append(External(name, tuple(entries), _bytes_needed(element, dims)))

    def _entry(self, start: int, stop: int) -> tuple[str, str]:
        halves: dict[int, str] = {1: "", 2: ""}
        for number, first, last in self._wire.fields(start, stop, (1, 2)):
            if last >= 0 and number in halves:
                if halves[number]:
                    raise MalformedError  # Which of two counts is up to the parser.
                halves[number] = self._text(first, last)
        return halves[1], halves[2]

    def _declared(self, start: int, stop: int) -> Declared:
        name, declared = "", _Type()
        for number, first, last in self._wire.fields(start, stop, (1, 2)):
            if number == 1 and last >= 0:
                name = self._text(first, last)
            elif number == _VALUE_TYPE and last >= 0:
                declared = self._type(first, last, 0)
        return Declared(name, declared.dtype, declared.shape, declared.optional, declared.name)

    def _type(self, start: int, stop: int, depth: int) -> _Type:
        if depth > _MOST_NESTED:
            raise MalformedError
        found = _Type()
        for kind, first, last in self._wire.fields(start, stop, _KINDS):
            if last < 0:
                continue
            if kind in _TENSOR_KINDS:
                found = self._tensor_type(_KINDS[kind], first, last)
            else:
                found = self._container_type(_KINDS[kind], first, last, depth)
        return found

    def _container_type(self, kind: str, start: int, stop: int, depth: int) -> _Type:
        key, inner = "", _Type()
        for _, first, last in self._wire.fields(start, stop, (1, 2)):
            if last < 0:
                key = f"{element_name(first)},"
            else:
                inner = self._type(first, last, depth + 1)
        name = f"{kind}({key}{inner.name})"
        if kind == "optional" and inner.dtype is not None:
            return _Type(name, inner.dtype, inner.shape, optional=True)
        return _Type(name)

    def _tensor_type(self, kind: str, start: int, stop: int) -> _Type:
        dtype, shape, name = None, None, ""
        for number, first, last in self._wire.fields(start, stop, (1, 2)):
            if number == 1 and last < 0:
                dtype, name = ELEMENT_TYPES.get(first), f"{kind}({element_name(first)})"
            elif number == 2 and last >= 0:  # noqa: PLR2004 - TypeProto.Tensor.shape
                shape = tuple(
                    self._dim(inner, end)
                    for field_number, inner, end in self._wire.fields(first, last, (1,))
                    if field_number == 1 and end >= 0
                )
        return _Type(name, dtype if kind == "tensor" else None, shape)

    def _dim(self, start: int, stop: int) -> int | str | None:
        dim: int | str | None = None
        for number, first, last in self._wire.fields(start, stop, (1, 2)):
            if number == 1 and last < 0:
                dim = signed(first) if signed(first) > 0 else None
            elif number == 2 and last >= 0:  # noqa: PLR2004 - TensorShapeProto.Dimension.dim_param
                dim = self._text(first, last) or None
        return dim

    def _text(self, start: int, stop: int) -> str:
        try:
            return self._wire.content(start, min(stop, start + _LONGEST_LOCATION + 1)).decode()
        except UnicodeDecodeError as error:
            raise MalformedError from error


def _bytes_needed(element: int, dims: list[int]) -> int:
    if len(dims) > _MOST_DIMENSIONS or any(dim < 0 for dim in dims):
        raise MalformedError
    dtype = ELEMENT_TYPES.get(element)
    return prod(dims) * dtype.itemsize if dtype else 0


# -- files beside the model -------------------------------------------------------------------------------------------


def check_external(contents: Contents, folder: Path, also_inside: Path | None = None) -> dict[str, Path]:
    """Give the files, by what the model calls them, that its tensors lie in; all of them inside `folder`.

    Links in `folder` may lead into `also_inside`, if that is given.

    Raises
    ------
    PackageFormatError
        If one is outside, missing, or shorter than the tensor.
    """
    files: dict[str, Path] = {}
    for tensor in contents.external:
        for location in tensor.values("location"):
            if location not in files:
                files[location] = _inside(location, folder, tensor.tensor, also_inside)
            _check_extent(tensor, files[location])
    return files


def _inside(location: str, folder: Path, tensor: str, also_inside: Path | None) -> Path:
    if not _is_plain(location):
        raise PackageFormatError(
            f"the values of a tensor lie in {shown(location)}, not in a file below the model's folder",
            at=f"tensor {shown(tensor)}",
            remedy="save the model with all of its external data beside it",
        )
    path = folder / location
    homes = [home.resolve() for home in (folder, also_inside) if home is not None]
    if not path.is_file() or not any(path.resolve().is_relative_to(home) for home in homes):
        raise PackageFormatError(
            f"there is no file {shown(location)} inside the model's folder",
            at=f"tensor {shown(tensor)}",
            remedy="save the model with all of its external data beside it",
        )
    return path


def _is_plain(location: str) -> bool:
    # ONNX Runtime gives a meaning of its own to locations that begin with "*/": addresses in memory.
    if not 0 < len(location) <= _LONGEST_LOCATION or not location.isprintable():
        return False
    parts = location.split("/")
    return (
        not any(part in ("", "..") or set(part) & set('\\*?"<>|:') for part in parts)
        and PurePosixPath(location).name != ""
    )


def _check_extent(tensor: External, path: Path) -> None:
    offset = max(map(_count, tensor.values("offset")), default=0)
    length = max(map(_count, tensor.values("length")), default=tensor.bytes_needed)
    size = path.stat().st_size
    if offset + max(length, tensor.bytes_needed) > size:
        raise PackageFormatError(
            f"a tensor needs bytes {offset} to {offset + max(length, tensor.bytes_needed)}, "
            f"{shown(path.name)} has {size}",
            at=f"tensor {shown(tensor.tensor)}",
        )


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20:  # noqa: PLR2004 - 2**64 has 20 digits
        return int(text)
    raise PackageFormatError(f"{shown(text)} is no offset or length", at="external data")
