"""Reads the attributes of an old archive: the few opcodes that torch 1.0 to 1.3 wrote, from a closed list of types."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TensorReference", "read_attributes"]

_MOST_VALUES = 1_000_000


@dataclass(frozen=True)
class TensorReference:
    """A tensor of the archive's table."""

    index: int


class _Mark:
    pass


_MARK = _Mark()
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
_FIXED: Mapping[int, tuple[str, int]] = {
    ord("K"): ("<B", 1),
    ord("M"): ("<H", 2),
    ord("J"): ("<i", 4),
    ord("G"): (">d", 8),
}
_CONSTANTS: Mapping[int, object] = {ord("N"): None, 0x88: True, 0x89: False}
_EMPTY: Mapping[int, Callable[[], Any]] = {ord("]"): list, ord("}"): dict, ord(")"): tuple}


def read_attributes(content: bytes, tensors: int) -> tuple[Any, ...]:
    """Read the values of all attributes: numbers, texts, tensors, and lists, tuples and dictionaries of them.

    Parameters
    ----------
    content
        A pickle.
    tensors
        How many tensors there are to refer to.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    value = _Machine(content, tensors).run()
    if not isinstance(value, list | tuple):
        raise ValueError("the attributes are no tuple")  # noqa: TRY004 - all that is wrong with it is of one kind
    return tuple(value)


class _Machine:
    """A stack, a memo, and no way to call anything."""

    def __init__(self, content: bytes, tensors: int) -> None:
        self._content, self._at, self._tensors = content, 0, tensors
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MOST_VALUES):
            opcode = self._take(1)[0]
            if opcode == ord("."):
                return self._stack.pop()
            self._step(opcode)
        raise ValueError("the attributes are too many")

    def _step(self, opcode: int) -> None:
        if opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            self._stack.append(_EMPTY[opcode]())
        elif opcode in _FIXED:
            form, length = _FIXED[opcode]
            self._stack.append(struct.unpack(form, self._take(length))[0])
        else:
            method = _METHODS.get(opcode)
            if method is None:
                raise ValueError(f"opcode {opcode:#x} is none that attributes are written with")
            method(self)

    def _take(self, length: int) -> bytes:
        piece = self._content[self._at : self._at + length]
        if len(piece) < length:
            raise ValueError("the attributes end too early")
        self._at += length
        return piece

    def _line(self) -> str:
        end = self._content.index(b"\n", self._at)
        return self._take(end + 1 - self._at)[:-1].decode("ascii")

    def protocol(self) -> None:
        if self._take(1)[0] > 2:  # noqa: PLR2004 - what torch wrote
            raise ValueError("the attributes are of another protocol")

    def text(self) -> None:
        (length,) = struct.unpack("<I", self._take(4))
        self._stack.append(self._take(length).decode("utf-8"))

    def long_number(self) -> None:
        length = self._take(1)[0]
        if length > 8:  # noqa: PLR2004 - bytes of an int64
            raise ValueError("a number is too long")
        self._stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def mark(self) -> None:
        self._stack.append(_MARK)

    def _since_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def make_tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def pack(self, count: int) -> None:
        values = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(values[::-1]))

    def append(self) -> None:
        value = self._stack.pop()
        self._extended([value])

    def appends(self) -> None:
        self._extended(self._since_mark())

    def _extended(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError("values are appended to no list")  # noqa: TRY004 - as above
        target.extend(values)

    def setitems(self) -> None:
        values = self._since_mark()
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("items are set in no dictionary")
        target.update(zip(values[::2], values[1::2], strict=True))

    def name(self) -> None:
        name = (self._line(), self._line())
        module, function = name
        if module not in ("torch.jit._pickle", "torch.jit._pickle ") or function not in (
            *_LISTS,
            "build_tensor_from_id",
        ):
            raise ValueError(f"{module[:40]}.{function[:40]} is none of the functions that attributes name")
        self._stack.append(("function", function))

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        (only,) = arguments
        if function == ("function", "build_tensor_from_id"):
            self._stack.append(self._reference(only))
        elif function[0] == "function" and isinstance(only, list | tuple):
            self._stack.append(list(only))
        else:
            raise ValueError("something that is no function is called")

    def _reference(self, index: Any) -> TensorReference:
        if type(index) is not int or not 0 <= index < self._tensors:
            raise ValueError(f"tensor {index!r:.20} of {self._tensors} is asked for")
        return TensorReference(index)

    def put(self) -> None:
        self._memo[self._take(1)[0]] = self._stack[-1]

    def long_put(self) -> None:
        (place,) = struct.unpack("<I", self._take(4))
        self._memo[place] = self._stack[-1]

    def get(self) -> None:
        self._stack.append(self._memo[self._take(1)[0]])

    def long_get(self) -> None:
        (place,) = struct.unpack("<I", self._take(4))
        self._stack.append(self._memo[place])


_METHODS: Mapping[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x8A: _Machine.long_number,
    0x85: lambda machine: machine.pack(1),
    0x86: lambda machine: machine.pack(2),
    0x87: lambda machine: machine.pack(3),
    ord("X"): _Machine.text,
    ord("("): _Machine.mark,
    ord("t"): _Machine.make_tuple,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("u"): _Machine.setitems,
    ord("c"): _Machine.name,
    ord("R"): _Machine.reduce,
    ord("q"): _Machine.put,
    ord("r"): _Machine.long_put,
    ord("h"): _Machine.get,
    ord("j"): _Machine.long_get,
}
