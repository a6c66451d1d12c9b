"""What a pickle of test data may name and call, and how arrays are made of it.

`CALLS` is the closed list. None of its functions is the one of that name: each makes a plain value, or an inert note of
what an array would be made of, out of arguments whose types are checked. `Rebuilder` makes arrays of the notes
afterwards, with every size checked against the bytes that are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from neuropod_core._elements import MalformedError, checked_shape, element_count, numbers, texts
from neuropod_core.backend import Array
from neuropod_core.dtypes import DType
from neuropod_core.errors import shown

__all__ = ["CALLS", "Allowance", "Name", "PickledArray", "PickledType", "Rebuilder", "admitted", "filled", "set_state"]

_NDARRAY = "numpy.ndarray"
_NUMPY_CORES = ("numpy.core", "numpy._core")  # NumPy 1 and 2
_LONGEST_NAME = 256
_TYPE = re.compile(r"([biufSUO])([0-9]{0,9})\Z")
_TYPE_STATE_ITEMS = 8
_ORDERS = {"<": False, "|": False, ">": True}
_NUMBERS = {f"{dtype.value[0]}{dtype.itemsize}": dtype for dtype in DType if dtype.value[0] in "fiu"} | {
    "b1": DType.BOOL
}
_CHARACTER_BYTES = {"S": 1, "U": 4}
_MOST_COPIES = 8
_SMALL = 2**24
_POINTER_BYTES = 8


class Name(str):
    """A name that the pickle mentioned; it stands for nothing but itself."""

    __slots__ = ()


class PickledType:
    """A note of what a NumPy element type would be made of; `order` is empty until its state is set."""

    __slots__ = ("kind", "order", "width")

    def __init__(self, kind: str, width: int) -> None:
        self.kind, self.width, self.order = kind, width, ""


class PickledArray:
    """A note of what an array would be made of: shape, element type, and the bytes (or the list) of its elements."""

    __slots__ = ("fortran", "items", "shape", "type")

    def __init__(self) -> None:
        self.type: PickledType | None = None
        self.shape: object = None
        self.items: object = None
        self.fortran = False


class Allowance:
    """How much the calls of one pickle may copy: as much as the pickle is long, for real ones copy nothing twice."""

    def __init__(self, size: int) -> None:
        self.left = size

    def spend(self, size: int) -> None:
        """Take `size` bytes or items off it."""
        self.left -= size
        if self.left < 0:
            raise MalformedError("one value is copied over and over")


# ----------------------------------------------------------------------------------------------------- names and keys


def admitted(name: str) -> Name:
    """Give a name of the closed list."""
    if name != _NDARRAY and name not in CALLS:
        raise MalformedError(f"{shown(name)} is not among the names that test data may use")
    return Name(name)


def filled(target: dict[str, Any], items: list[Any]) -> dict[str, Any]:
    """Put keys and values, in turn, into a dict; keys are texts, for the hash of nested tuples may take for ever."""
    if len(items) % 2:
        raise MalformedError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        name = _name(key)
        if name in target:
            raise MalformedError(f"the key {shown(name)} comes twice")
        target[name] = value
    return target


def _name(value: object) -> str:
    """Give a short text; the `str` of Python 2 comes as bytes."""
    if isinstance(value, Name) or not isinstance(value, str | bytes):
        raise MalformedError(f"a text belongs here, not a {type(value).__name__}")
    if len(value) > _LONGEST_NAME:
        raise MalformedError(f"a name has at most {_LONGEST_NAME} characters, not {len(value)}")
    return value if isinstance(value, str) else _text(value)


def _text(value: bytes) -> str:
    """Read bytes of Python 2 as UTF-8 where they can be, else as Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


# -------------------------------------------------------------------------------------------------------------- calls


def _make_type(_: Allowance, text: object, align: object = 0, copy: object = 1) -> PickledType:
    del align, copy
    found = _TYPE.match(_name(text))
    if found is None:
        raise MalformedError(f"{shown(text)} is no element type of test data")
    return PickledType(found[1], int(found[2] or 0))


def _make_empty_array(_: Allowance, name: object, shape: object, code: object) -> PickledArray:
    del shape, code  # Placeholders; the state follows.
    if not isinstance(name, Name) or name != _NDARRAY:
        raise MalformedError("only plain NumPy arrays are read")
    return PickledArray()


def _make_scalar(_: Allowance, kind: object, items: object) -> PickledArray:
    return _array(items, kind, (), fortran=False)


def _make_array(_: Allowance, items: object, kind: object, shape: object, order: object) -> PickledArray:
    if _name(order) not in ("C", "F"):
        raise MalformedError(f"an array is in order 'C' or 'F', not {shown(order)}")
    return _array(items, kind, shape, fortran=_name(order) == "F")


def _array(items: object, kind: object, shape: object, *, fortran: bool) -> PickledArray:
    if not isinstance(kind, PickledType) or not isinstance(items, bytes | list):
        raise MalformedError("an array is made of its elements and their type")
    array = PickledArray()
    array.items, array.type, array.shape, array.fortran = items, kind, shape, fortran
    return array


def _make_bytes(allowance: Allowance, text: object = "", encoding: object = "latin1") -> bytes:
    """Give bytes as Python 3 writes them in protocols 0 to 2."""
    if not isinstance(text, str) or _name(encoding) not in ("latin1", "latin-1"):
        raise MalformedError("only bytes written as Latin-1 are read")
    allowance.spend(len(text))
    return text.encode("latin-1")


def _make_dict(allowance: Allowance, pairs: object = ()) -> dict[str, Any]:
    if not isinstance(pairs, list | tuple):
        raise MalformedError("a dict is made of pairs")
    allowance.spend(len(pairs))
    items: list[Any] = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:  # noqa: PLR2004 - a pair
            raise MalformedError("a dict is made of pairs")
        items += pair
    return filled({}, items)


CALLS: dict[str, Callable[..., object]] = {
    "numpy.dtype": _make_type,
    **{f"{core}.multiarray._reconstruct": _make_empty_array for core in _NUMPY_CORES},
    **{f"{core}.multiarray.scalar": _make_scalar for core in _NUMPY_CORES},
    **{f"{core}.numeric._frombuffer": _make_array for core in _NUMPY_CORES},
    "_codecs.encode": _make_bytes,
    "__builtin__.bytes": _make_bytes,
    "builtins.bytes": _make_bytes,
    "collections.OrderedDict": _make_dict,
}
"""Every name that may be called, with what is done instead; the first argument is what the call may copy."""


# ------------------------------------------------------------------------------------------------------------- states


def set_state(target: object, state: object) -> None:
    """Fill in a note as ``__setstate__`` of the real thing would."""
    if isinstance(target, PickledArray):
        _set_array(target, state)
    elif isinstance(target, PickledType):
        _set_type(target, state)
    else:
        raise MalformedError(f"a {type(target).__name__} has no state")


def _set_array(array: PickledArray, state: object) -> None:
    match state:
        case (1, shape, PickledType() as kind, 0 | 1 as fortran, bytes() | list() as items):
            array.shape, array.type, array.fortran, array.items = shape, kind, bool(fortran), items
        case _:
            raise MalformedError("this is no state of a NumPy array")


def _set_type(target: PickledType, state: object) -> None:
    match state:
        case (3, str() | bytes() as order, None, None, None, int(), int(), int()) if _name(order) in _ORDERS:
            target.order = _name(order)
        case _:
            raise MalformedError("this is no state of a plain NumPy type")


# ---------------------------------------------------------------------------------------------- from a note to an array


class Rebuilder:
    """Makes arrays of the values of one pickle of `size` bytes.

    All of them together, texts written out, take at most 16 MiB and eight times as much as the pickle, however often it
    mentions one and the same.
    """

    def __init__(self, size: int) -> None:
        self._allowance = Allowance(_MOST_COPIES * size + _SMALL)
        self._built: dict[int, Array] = {}  # The notes live as long as what `load` gave, so no id comes twice.

    def array(self, value: object) -> Array:
        """Give a new array of what a note says; also of a number, a text, or a flat list of one of them."""
        if isinstance(value, PickledArray):
            return self._of_note(value)
        return self._of_plain(value, (len(value),)) if isinstance(value, list) else self._of_plain([value], ())

    def _of_note(self, note: PickledArray) -> Array:
        array = self._built.get(id(note))
        if array is None:
            array = self._built[id(note)] = _rebuilt(note)
        self._allowance.spend(array.nbytes + len(cast("bytes", note.items)) + _text_characters(array))
        copied: Array = array.copy(order="K")
        return copied

    def _of_plain(self, items: list[Any], shape: tuple[int, ...]) -> Array:
        if len(set(map(type, items))) == 1 and isinstance(items[0], int | float):
            array: Array = np.array(items)
            self._allowance.spend(array.nbytes)
            if array.dtype.kind != "O":  # An int that no element type holds.
                owned: Array = array.reshape(shape).copy()
                return owned
        array = texts(_texts_of(items), shape)
        self._allowance.spend(array.nbytes + _text_characters(array))
        return array


def _text_characters(array: Array) -> int:
    return sum(map(len, array.ravel("K").tolist())) if array.dtype.kind == "O" else 0


def _rebuilt(array: PickledArray) -> Array:
    kind, shape = array.type, checked_shape(array.shape)
    if kind is None or not kind.order:
        raise MalformedError("an array whose state is missing")
    if kind.kind == "O" and isinstance(array.items, list):
        return texts(_texts_of(array.items), shape)  # Listed in C order, whatever the array's own was.
    if not isinstance(array.items, bytes) or kind.kind == "O":
        raise MalformedError("bytes belong to numbers and fixed-width text, a list to objects")
    if kind.kind in _CHARACTER_BYTES:
        return texts(_fixed_width_texts(array.items, kind, element_count(shape, 8)), shape, fortran=array.fortran)
    dtype = _NUMBERS.get(f"{kind.kind}{kind.width}")
    if dtype is None:
        raise MalformedError(f"{kind.kind}{kind.width} is no element type of test data")
    return numbers(array.items, dtype, shape, fortran=array.fortran, big_endian=_ORDERS[kind.order])


def _texts_of(items: list[Any]) -> list[str]:
    other = next((item for item in items if type(item) not in (str, bytes)), None)
    if other is not None:
        raise MalformedError(f"an array of objects holds texts only, not a {type(other).__name__}")
    # Each once, however often the list mentions it: a short pickle can mention a long text very often.
    decoded = {item: _text(item) for item in {item for item in items if type(item) is bytes}}
    _check_encodable("".join({item for item in items if type(item) is str}))
    return [decoded[item] if type(item) is bytes else item for item in items]


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedError("a text that UTF-8 cannot hold") from error


def _fixed_width_texts(raw: bytes, kind: PickledType, count: int) -> list[str]:
    width = kind.width * _CHARACTER_BYTES[kind.kind]
    if count * width != len(raw) or (count and not width):
        raise MalformedError(f"{count} texts of {width} bytes each, {len(raw)} bytes are there")
    if kind.kind == "S":
        return [_text(raw[begin : begin + width].rstrip(b"\0")) for begin in range(0, len(raw), width or 1)]
    try:
        text = raw.decode("utf-32-be" if _ORDERS[kind.order] else "utf-32-le")
    except UnicodeDecodeError as error:
        raise MalformedError(f"a text is no Unicode: {error.reason}") from error
    return [text[begin : begin + kind.width].rstrip("\0") for begin in range(0, len(text), kind.width or 1)]
