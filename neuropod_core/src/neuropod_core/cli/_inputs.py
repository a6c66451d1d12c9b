"""Reads the inputs of a call from a file or from stdin: NumPy's ``.npz``, or JSON.

The JSON is one object, a value for each tensor: nested lists, or ``{"values": ..., "dtype": ..., "shape": ...}``, which
is what ``neuropod run --json`` writes for its outputs; ``dtype`` and ``shape`` may be missing. What JSON holds becomes
the type of the spec only where no other reading is possible:

=================== ==================================================================================================
float types         numbers, rounded to the nearest; ints that the type holds exactly; ``"NaN"``, ``"Infinity"``,
                    ``"-Infinity"``; no number beyond the range
int and uint types  ints within the range; not ``1.0``
bool                ``true`` and ``false``
string              texts
=================== ==================================================================================================
"""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import click
import numpy as np

from neuropod_core._lists import Dialect, converted, flattened
from neuropod_core.backend import Array, Tensors
from neuropod_core.cli._text import clean
from neuropod_core.dtypes import DType
from neuropod_core.errors import TensorMismatchError, shown
from neuropod_core.limits import Limits
from neuropod_core.problem import Problem, TensorSpec

__all__ = ["from_json", "read_inputs", "read_tensors"]

_LARGEST_JSON_BYTES = 256 << 20
_ZIP = b"PK"

_Specs = Mapping[str, TensorSpec]


class _Constant(str):
    """A bare ``NaN`` or ``Infinity``: no JSON, but many programs write it."""

    __slots__ = ()


def read_inputs(place: str, problem: Problem) -> Tensors:
    """Read the inputs of `problem` from the file at `place`, or from stdin if it is ``-``; see `read_tensors`."""
    return read_tensors(place, problem.inputs, "inputs")


def read_tensors(place: str, specs: Sequence[TensorSpec], side: str) -> Tensors:
    """Read tensors by name from the file at `place`, or from stdin if it is ``-``; `side` is what errors call them.

    Raises
    ------
    click.UsageError
        If it cannot be read as ``.npz`` or JSON.
    TensorMismatchError
        If JSON does not fit `specs`. What an ``.npz`` holds is left to the checks of the model.
    """
    named = {spec.name: spec for spec in specs}
    with _opened(place) as file:
        start = file.read(len(_ZIP))
        file.seek(0)
        return _from_npz(file, place, named) if start == _ZIP else _from_json_file(file, place, named, side)


@contextmanager
def _opened(place: str) -> Iterator[BinaryIO]:
    if place == "-":
        if sys.stdin is None:
            raise _unreadable(place, "stdin is closed")
        yield _in_memory(sys.stdin.buffer, place)
        return
    try:
        file = open(place, "rb")  # noqa: SIM115, PTH123 - it is closed below, and a path may be anything
    except (OSError, ValueError) as error:
        raise _unreadable(place, getattr(error, "strerror", None) or error) from error
    with file:
        yield file if file.seekable() else _in_memory(file, place)


def _in_memory(stream: BinaryIO, place: str) -> BinaryIO:
    data = stream.read(_LARGEST_JSON_BYTES + 1)
    if len(data) > _LARGEST_JSON_BYTES:
        raise _unreadable(place, f"at most {_LARGEST_JSON_BYTES} bytes are read from a pipe", "pass a file")
    return io.BytesIO(data)


def _unreadable(place: str, why: object, remedy: str = "pass an .npz or a JSON file") -> click.UsageError:
    return click.UsageError(f"inputs cannot be read from {clean(shown(place))}: {clean(why)}; {remedy}")


# -- .npz -------------------------------------------------------------------------------------------------------------


def _from_npz(file: BinaryIO, place: str, specs: _Specs) -> Tensors:
    most = _granted_bytes(file, place)
    name = ""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                arrays[name] = _fitted(archive[name], specs.get(name), most)
            return arrays
    except Exception as error:  # A damaged archive has no closed list of errors.
        if "allow_pickle" in str(error):
            why = f"{shown(name)} is an array of objects, and reading one could run code"
            raise _unreadable(place, why, "save text by array.astype(str), or pass JSON") from error
        raise _unreadable(place, f"{shown(name)}: {error!r}" if name else repr(error), "save it by np.savez") from error


def _granted_bytes(file: BinaryIO, place: str) -> int:
    """Look at what an archive says of its sizes, before anything is unpacked; give the most that is read of it."""
    limits = Limits()
    try:
        entries = zipfile.ZipFile(file).infolist()
    except Exception as error:  # As above.
        raise _unreadable(place, error) from error
    finally:
        file.seek(0)
    packed, unpacked = sum(entry.compress_size for entry in entries), sum(entry.file_size for entry in entries)
    granted = max(limits.expansion_free_bytes, limits.expansion * packed)
    if unpacked > granted:
        raise _unreadable(
            place, f"{packed} bytes unpack to {unpacked}, at most {granted} are read", "save it by np.savez"
        )
    return granted


def _fitted(array: Array, spec: TensorSpec | None, most_elements: int) -> Array:
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds something besides arrays")  # noqa: TRY004 - told with everything else that is wrong
    if array.size > most_elements:  # Elements may have no bytes at all.
        raise ValueError(f"an array has {array.size} elements, at most {most_elements} are read")
    if (
        spec
        and spec.dtype is DType.BFLOAT16
        and array.dtype.kind == "V"
        and array.dtype.itemsize == DType.BFLOAT16.itemsize
    ):
        return array.view(DType.BFLOAT16.numpy)  # NumPy keeps the bytes and forgets the name.
    return array


# -- JSON -------------------------------------------------------------------------------------------------------------


def _from_json_file(file: BinaryIO, place: str, specs: _Specs, side: str) -> Tensors:
    data = file.read(_LARGEST_JSON_BYTES + 1)
    if len(data) > _LARGEST_JSON_BYTES:
        raise _unreadable(place, f"at most {_LARGEST_JSON_BYTES} bytes of JSON are read", "pass an .npz file")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_Constant)
    except (ValueError, RecursionError) as error:
        raise _unreadable(place, f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _unreadable(place, f"expected a JSON object, got {_named(value)}", 'write it like {"x": [1, 2]}')
    return _from_object(value, specs, side)


def from_json(values: Mapping[str, object], problem: Problem) -> Tensors:
    """Give parsed JSON as arrays of the types that `problem` says.

    Raises
    ------
    TensorMismatchError
        If a value has another shape, or cannot be meant.
    """
    return _from_object(values, {spec.name: spec for spec in problem.inputs}, "inputs")


def _from_object(values: Mapping[str, object], specs: _Specs, side: str) -> Tensors:
    for name in values:
        if name not in specs:
            there = ", ".join(specs) or "none"
            raise TensorMismatchError(f"{side}.{name}", f"one of the {side} ({there})", shown(name), "leave it out")
    return {name: _tensor(value, specs[name], f"{side}.{name}") for name, value in values.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _tensor(value: object, spec: TensorSpec, path: str) -> Array:
    shape: tuple[int, ...] | None = None
    if isinstance(value, dict):
        value, shape = _explicit(value, spec, path)
    items, found = flattened(value, path, JSON)
    if math.prod(found) == 0:
        found = _completed(found, spec, shape, path)
    if shape is not None and shape != found:
        raise TensorMismatchError(path, f"values of the shape {list(shape)}", f"values of the shape {list(found)}")
    if len(found) != len(spec.shape):
        got = f"{len(found)} levels of lists" if found else _named(items[0])
        raise TensorMismatchError(path, f"{spec.notation} ({len(spec.shape)} levels of lists)", got)
    return converted(items, found, spec, JSON, path)


def _explicit(value: dict[str, Any], spec: TensorSpec, path: str) -> tuple[object, tuple[int, ...] | None]:
    if "values" not in value or not set(value) <= {"values", "dtype", "shape"}:
        raise TensorMismatchError(path, "an object with values, dtype and shape", f"one with {shown(sorted(value))}")
    if value.get("dtype", spec.dtype.value) != spec.dtype.value:
        raise TensorMismatchError(f"{path}.dtype", repr(spec.dtype.value), shown(value["dtype"]))
    shape = value.get("shape")
    if shape is None:
        return value["values"], None
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
        raise TensorMismatchError(f"{path}.shape", "a list of lengths", shown(shape))
    return value["values"], tuple(shape)


def _completed(found: tuple[int, ...], spec: TensorSpec, shape: tuple[int, ...] | None, path: str) -> tuple[int, ...]:
    """Give an empty tensor the lengths that an empty list cannot say."""
    if shape is not None:
        return shape if shape[: len(found)] == found else found
    rest = spec.shape[len(found) :]
    lengths = tuple(dim for dim in rest if isinstance(dim, int))
    if len(lengths) < len(rest):
        remedy = 'say it like {"shape": [0, 3], "values": []}'
        raise TensorMismatchError(path, spec.notation, "an empty list, which does not say its other lengths", remedy)
    return (*found, *lengths)


def _named(item: object) -> str:
    """Show a scalar of JSON as JSON writes it, and say what else it is."""
    if isinstance(item, list | dict):
        return "a list" if isinstance(item, list) else "an object"
    if isinstance(item, _Constant):
        return str(item)
    if isinstance(item, str):
        return f"the text {shown(item)}"
    return {None: "null", True: "true", False: "false"}[item] if item is None or isinstance(item, bool) else shown(item)


JSON = Dialect(named=_named, bools="true or false", constants=("NaN", "Infinity", "-Infinity"))
"""JSON has no NaN and no infinities; programs write them as texts."""
