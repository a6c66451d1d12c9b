"""Inputs and the outputs expected for them, packed with a model in a form that cannot run code.

The file ``test_data.safetensors`` has the layout of safetensors: eight bytes with the length of the header (little
endian), the header (a JSON object), and the elements of all tensors end to end (little endian, C order)::

    {"__metadata__": {"input/text": "string[2, 1]"},
     "input/x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}

A tensor is named ``input/NAME`` or ``output/NAME``. The layout has no strings: an array of strings is kept as the
tensor of its own name, one-dimensional ``U8``, with the UTF-8 of all its elements end to end, and the tensor
``offsets/input/NAME``, ``I64``, with the place where each element ends; the metadata says its shape.

The bytes depend on the content alone. Reading one takes memory for the arrays and, for each text, what Python needs
for a `str`: at worst about twelve times the size of the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from neuropod_core._elements import MOST_DIMENSIONS, MalformedError, checked_shape, element_count, numbers, texts
from neuropod_core._json import parse_object
from neuropod_core._pickled_arrays import Rebuilder
from neuropod_core.backend import Array
from neuropod_core.dtypes import DType
from neuropod_core.errors import PackageFormatError, PackagingError, shown
from neuropod_core.tensors import as_text, describe, dtype_of

__all__ = ["FILE_NAME", "PICKLE_FILE_NAME", "TestData", "decode", "decode_pickle", "encode"]

FILE_NAME = "test_data.safetensors"
"""The file of a package that `encode` writes and `decode` reads."""

PICKLE_FILE_NAME = "test_data.pkl"
"""The file of packages of the original tool, which `decode_pickle` reads."""

_LONGEST_HEADER = 2**20
_LONGEST_NAME = 256
_LARGEST_OFFSET = 2**62
_LENGTH_BYTES = 8
_ALIGNMENT = 8

_CODES = {
    DType.BOOL: "BOOL",
    DType.INT8: "I8",
    DType.INT16: "I16",
    DType.INT32: "I32",
    DType.INT64: "I64",
    DType.UINT8: "U8",
    DType.UINT16: "U16",
    DType.UINT32: "U32",
    DType.UINT64: "U64",
    DType.FLOAT16: "F16",
    DType.BFLOAT16: "BF16",
    DType.FLOAT32: "F32",
    DType.FLOAT64: "F64",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_METADATA = "__metadata__"
_OFFSETS = "offsets/"
_TEXT_SHAPE = re.compile(r"string\[((?:[0-9]{1,19}(?:, [0-9]{1,19})*)?)\]\Z")


@dataclass(frozen=True)
class TestData:
    """Inputs of one call and the outputs that belong to them.

    Parameters
    ----------
    inputs, outputs
        Arrays by tensor name; strings are arrays of `str` objects. What was decoded is owned and writable.
    """

    __test__ = False  # It is no test, whatever pytest reads into its name.

    inputs: dict[str, Array]
    outputs: dict[str, Array]


class _Declared(NamedTuple):
    """A tensor as the header declares it."""

    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


class _Stored(NamedTuple):
    """A tensor with the bytes of its elements."""

    dtype: DType
    shape: tuple[int, ...]
    raw: bytes | memoryview

    def array(self) -> Array:
        return numbers(self.raw, self.dtype, self.shape)


# ------------------------------------------------------------------------------------------------------------ writing


def encode(test_data: TestData) -> bytes:
    """Write test data as the content of ``test_data.safetensors``.

    Raises
    ------
    PackagingError
        If a tensor has a name or holds elements that a package cannot.
    """
    tensors: dict[str, _Stored] = {}
    metadata: dict[str, str] = {}
    for side, arrays in (("input", test_data.inputs), ("output", test_data.outputs)):
        for name, array in arrays.items():
            key = _checked_key(side, name)
            if dtype_of(array) is DType.STRING:
                metadata[key] = f"string{list(array.shape)}"
                tensors[key], tensors[_OFFSETS + key] = _encoded_texts(key, array)
            else:
                tensors[key] = _encoded_numbers(key, array)
    return _file_of(tensors, metadata)


def _checked_key(side: str, name: object) -> str:
    if not isinstance(name, str) or not _is_name(name):
        raise PackagingError(f"the name of a tensor is a printable text, not {shown(name)}", at=f"test data, {side}s")
    return f"{side}/{name}"


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()


def _encoded_numbers(key: str, array: Array) -> _Stored:
    dtype = dtype_of(array)
    if array.ndim > MOST_DIMENSIONS:
        raise PackagingError(
            f"a tensor has at most {MOST_DIMENSIONS} dimensions, not {array.ndim}", at=f"test data, {key}"
        )
    if dtype is None:
        known = ", ".join(DType.__members__.values())
        raise PackagingError(
            f"{describe(array)} is no element type of a package (known: {known})", at=f"test data, {key}"
        )
    bits = np.ascontiguousarray(array, dtype.numpy).view(f"u{dtype.itemsize}")
    return _Stored(dtype, array.shape, bits.astype(f"<u{dtype.itemsize}").tobytes())


def _encoded_texts(key: str, array: Array) -> tuple[_Stored, _Stored]:
    text = as_text(array)
    if text is None:
        raise PackagingError("not every element is a text that UTF-8 can hold", at=f"test data, {key}")
    items = [item.encode() for item in text.ravel().tolist()]
    ends = np.cumsum([len(item) for item in items], dtype="<i8")
    joined = b"".join(items)
    return _Stored(DType.UINT8, (len(joined),), joined), _Stored(DType.INT64, ends.shape, ends.tobytes())


def _file_of(tensors: Mapping[str, _Stored], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    # Widest elements first, so that each tensor is aligned in the file.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    end = 0
    for key, tensor in ordered:
        begin, end = end, end + len(tensor.raw)
        header[key] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _LONGEST_HEADER:
        raise PackagingError(f"a header has at most {_LONGEST_HEADER} bytes, not {len(text)}", at="test data")
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *(tensor.raw for _, tensor in ordered)])


# ------------------------------------------------------------------------------------------------------------ reading


def decode(data: bytes | memoryview, at: str) -> TestData:
    """Read the content of a file ``test_data.safetensors``; `at` names it in errors.

    Raises
    ------
    PackageFormatError
        If it is not what it should be: nothing that it says is believed.
    PackageLimitError
        If its header is nested too deeply.
    """
    with _located(at):
        header, buffer = _parts(memoryview(data).cast("B"), at)
        metadata = _metadata(header.pop(_METADATA, {}))
        stored = _tiled({key: _declared(key, entry, at) for key, entry in header.items()}, buffer)
    return _assembled(stored, metadata, at)


@contextmanager
def _located(at: str, key: str | None = None) -> Iterator[None]:
    try:
        yield
    except MalformedError as error:
        raise PackageFormatError(str(error), at=at if key is None else f"{at}, {shown(key)}") from None


def _parts(data: memoryview, at: str) -> tuple[dict[str, Any], memoryview]:
    if len(data) < _LENGTH_BYTES:
        raise MalformedError(f"a safetensors file has at least {_LENGTH_BYTES} bytes, not {len(data)}")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    rest = data[_LENGTH_BYTES:]
    if length > min(len(rest), _LONGEST_HEADER):
        raise MalformedError(
            f"the header claims {length} bytes, {len(rest)} follow and at most {_LONGEST_HEADER} are read"
        )
    return parse_object(bytes(rest[:length]), f"{at}, header"), rest[length:]


def _metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MalformedError(f"{_METADATA} is an object of texts")
    return metadata


def _declared(key: str, entry: object, at: str) -> _Declared:
    with _located(at, key):
        side, _, name = key.removeprefix(_OFFSETS).partition("/")
        if side not in ("input", "output") or not _is_name(name):
            raise MalformedError("a tensor is named input/NAME or output/NAME, its name is printable")
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise MalformedError("a tensor is an object with the keys dtype, shape and data_offsets")
        begin, end = _bounds(entry["data_offsets"])
        return _Declared(_element_type(entry["dtype"]), checked_shape(entry["shape"]), begin, end)


def _element_type(code: object) -> DType:
    if not isinstance(code, str) or code not in _DTYPES:
        raise MalformedError(f"an element type is one of {', '.join(_DTYPES)}, not {_briefly(code)}")
    return _DTYPES[code]


def _bounds(offsets: object) -> tuple[int, int]:
    match offsets:
        case [int(begin), int(end)] if type(begin) is type(end) is int and 0 <= begin <= end < _LARGEST_OFFSET:
            return begin, end
    raise MalformedError(f"data_offsets are two ints, neither negative nor falling, not {_briefly(offsets)}")


def _briefly(value: object) -> str:
    """Show a scalar or a pair of scalars, name the type of anything that may be large."""
    small = not isinstance(value, dict) and (not isinstance(value, list) or len(value) <= len(("begin", "end")))
    return shown(value) if small else f"a {type(value).__name__}"


def _tiled(declared: Mapping[str, _Declared], buffer: memoryview) -> dict[str, _Stored]:
    """Give each tensor its bytes; together they cover the buffer, each byte once."""
    filled = 0
    stored: dict[str, _Stored] = {}
    for key, tensor in sorted(declared.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != filled or tensor.end > len(buffer):
            place = f"{shown(key)} lies at bytes {tensor.begin} to {tensor.end}"
            raise MalformedError(f"{place}, expected from {filled} and within {len(buffer)}")
        filled = tensor.end
        stored[key] = _Stored(tensor.dtype, tensor.shape, buffer[tensor.begin : tensor.end])
    if filled != len(buffer):
        raise MalformedError(f"the tensors end at byte {filled}, the file at byte {len(buffer)}")
    return stored


def _assembled(stored: dict[str, _Stored], metadata: Mapping[str, str], at: str) -> TestData:
    offsets = {key: stored.pop(key) for key in list(stored) if key.startswith(_OFFSETS)}
    sides: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
    for key, tensor in stored.items():
        side, _, name = key.partition("/")
        with _located(at, key):
            ends = offsets.pop(_OFFSETS + key, None)
            if ends is None and key in metadata:
                raise MalformedError("strings without their offsets")
            sides[side][name] = tensor.array() if ends is None else _texts(tensor, ends, metadata.get(key, ""))
    if offsets:
        raise PackageFormatError(f"{shown(next(iter(offsets)))} belongs to no tensor", at=at)
    return TestData(sides["input"], sides["output"])


def _texts(tensor: _Stored, offsets: _Stored, notation: str) -> Array:
    shape = _text_shape(notation)
    if (tensor.dtype, tensor.shape) != (DType.UINT8, (len(tensor.raw),)):
        raise MalformedError("the bytes of strings are one-dimensional U8")
    if (offsets.dtype, offsets.shape) != (DType.INT64, (element_count(shape, 1),)):
        raise MalformedError(f"string{list(shape)} has {math.prod(shape)} offsets of I64, not {_notation(offsets)}")
    ends = offsets.array()
    begins = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    if (begins > ends).any() or int(ends[-1] if ends.size else 0) != len(tensor.raw):
        raise MalformedError(f"the offsets of strings rise from 0 to {len(tensor.raw)}")
    return texts(list(_decoded(tensor.raw, ends.tolist())), shape)


def _decoded(raw: bytes | memoryview, ends: list[int]) -> Iterator[str]:
    begin = 0
    for end in ends:
        try:
            yield str(raw[begin:end], "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"a string is no UTF-8: {error.reason}") from error
        begin = end


def _text_shape(notation: str) -> tuple[int, ...]:
    found = _TEXT_SHAPE.match(notation)
    if found is None:
        raise MalformedError(f"the metadata of strings is like 'string[2, 3]', not {shown(notation)}")
    return checked_shape([int(length) for length in found[1].split(", ")] if found[1] else [])


def _notation(tensor: _Stored) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


# ------------------------------------------------------------------------------------------- the original's test data


def decode_pickle(data: bytes, at: str) -> TestData:
    """Read the content of a file ``test_data.pkl`` without unpickling it; `at` names it in errors.

    Raises
    ------
    PackageFormatError
        If it holds anything but the arrays of ``{"test_input": {...}, "test_output": {...}}``.
    """
    from neuropod_core._pickles import load  # Needed for packages of the original only.

    with _located(at):
        content = load(data)
        if not isinstance(content, dict) or set(content) != {"test_input", "test_output"}:
            raise MalformedError("test data is a dict with the keys 'test_input' and 'test_output'")
        rebuilder = Rebuilder(len(data))
    return TestData(*(_rebuilt(content[side], rebuilder, f"{at}, {side}") for side in ("test_input", "test_output")))


def _rebuilt(arrays: object, rebuilder: Rebuilder, at: str) -> dict[str, Array]:
    if arrays is None:
        return {}
    if not isinstance(arrays, dict):
        raise PackageFormatError(f"tensors come in a dict, not a {type(arrays).__name__}", at=at)
    rebuilt = {}
    for name, value in arrays.items():
        with _located(at, name):
            if not _is_name(name):
                raise MalformedError("the name of a tensor is printable")
            rebuilt[name] = rebuilder.array(value)
    return rebuilt
