"""Reads the pickles in which the original tool kept test data, and runs nothing of them.

A pickle is a program for a stack machine; what is dangerous about it are the functions that it names and calls. This
interpreter knows the instructions of `_BY_NAME` and no other, and calls nothing but the stand-ins of `CALLS`.

Python 2 and 3, protocols 0 to 5, NumPy 1 and 2. Work and memory are bounded by the constants below and by the length of
the pickle: no instruction takes longer than the bytes that it consumes.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from neuropod_core._elements import MalformedError
from neuropod_core._pickled_arrays import CALLS, Allowance, Name, admitted, filled, set_state

__all__ = ["load"]

_MOST_STEPS = 500_000
_MOST_CONTAINERS = 50_000
_MOST_MARKS = 64
_LONGEST_LINE = 64
_LONGEST_INTEGER_BYTES = 9  # 2**64 - 1 with its sign
_NEWEST_PROTOCOL = 5

_ESCAPE = re.compile(rb"\\(?:x[0-9A-Fa-f]{2}|[\\'\"tnr])")  # What the repr of a str of Python 2 has.


def load(data: bytes) -> object:
    """Give what a pickle holds: dict, list, tuple, str, bytes, int, float, bool, None, and notes of arrays.

    Raises
    ------
    MalformedError
        If it is no such pickle; the message has the instruction and its place.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except MalformedError as error:
        raise MalformedError(f"{error} (at byte {machine.start} of the pickle, {machine.instruction})") from None
    except Exception as error:  # The pickle is hostile: whatever it provokes is its fault and stays here.
        reason = type(error).__name__
        raise MalformedError(f"{reason} at byte {machine.start} of the pickle, {machine.instruction}") from error


class _Machine:
    """The state of a pickle that is being read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # The stacks under each mark.
        self.memo: dict[int, Any] = {}
        self.allowance = Allowance(len(data))
        self.containers = self.start = 0

    @property
    def instruction(self) -> str:
        """The name of the instruction at `start`, for messages."""
        code = self.data[self.start : self.start + 1]
        return _INSTRUCTIONS[code[0]][0] if code and code[0] in _INSTRUCTIONS else f"code {code!r}"

    def run(self) -> object:
        data, instructions = self.data, _INSTRUCTIONS
        for _ in range(_MOST_STEPS):
            self.start = self.position
            if self.start >= len(data):
                raise MalformedError("it ends before its STOP")
            found = instructions.get(data[self.start])
            if found is None:
                raise MalformedError("an instruction that is not admitted")
            self.position += 1
            if found[1] is None:
                return self.result()
            found[1](self)
        raise MalformedError(f"more than {_MOST_STEPS} steps")

    def result(self) -> object:
        if self.below or len(self.stack) != 1:
            raise MalformedError("the pickle stops with more or less than one value")
        if self.position != len(self.data):
            raise MalformedError(f"{len(self.data) - self.position} bytes follow the end")
        return self.stack.pop()

    # What instructions are made of.

    def take(self, size: int) -> bytes:
        begin, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise MalformedError(f"{size} bytes are asked for, {len(self.data) - begin} are there")
        return self.data[begin : self.position]

    def take_number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def take_line(self, longest: int | None = _LONGEST_LINE) -> bytes:
        limit = len(self.data) if longest is None else self.position + longest + 1
        end = self.data.find(b"\n", self.position, limit)
        if end < 0:
            raise MalformedError("a line without an end" if longest is None else f"a line longer than {longest} bytes")
        begin, self.position = self.position, end + 1
        return self.data[begin:end]

    def pop(self, kind: type = object) -> Any:
        if not self.stack:
            raise MalformedError("nothing is on the stack")
        value = self.stack.pop()
        if not isinstance(value, kind):
            raise MalformedError(f"a {type(value).__name__} is not what belongs here")
        return value

    def top(self, kind: type) -> Any:
        value = self.pop(kind)
        self.stack.append(value)
        return value

    def mark(self) -> None:
        if len(self.below) >= _MOST_MARKS:
            raise MalformedError(f"more than {_MOST_MARKS} containers open at once")
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        if not self.below:
            raise MalformedError("there is no mark")
        items, self.stack = self.stack, self.below.pop()
        return items

    def push_container(self, container: object) -> None:
        self.containers += 1
        if self.containers > _MOST_CONTAINERS:
            raise MalformedError(f"more than {_MOST_CONTAINERS} lists, tuples, dicts and calls")
        self.stack.append(container)


# ----------------------------------------------------------------------------------------------- single instructions


def _push(read: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    """Make the instruction that pushes what `read` gives."""

    def instruction(machine: _Machine) -> None:
        machine.stack.append(read(machine))

    return instruction


def _constant(*, value: object) -> Callable[[_Machine], None]:
    return _push(lambda _: value)


def _integer_line(machine: _Machine) -> int | bool:
    line = machine.take_line()
    if line in (b"00", b"01"):  # How protocols 0 and 1 write False and True.
        return line == b"01"
    return _bounded(int(line.removesuffix(b"L")))


def _long(machine: _Machine, width: int) -> int:
    size = machine.take_number(width)
    if size > _LONGEST_INTEGER_BYTES:
        raise MalformedError(f"an int has at most {_LONGEST_INTEGER_BYTES} bytes, not {size}")
    return int.from_bytes(machine.take(size), "little", signed=True)


def _bounded(value: int) -> int:
    if value.bit_length() > 8 * _LONGEST_INTEGER_BYTES:
        raise MalformedError(f"an int has at most {_LONGEST_INTEGER_BYTES} bytes")
    return value


def _quoted_line(machine: _Machine) -> bytes:
    line = machine.take_line(None).strip()
    quote = line[:1]
    if len(line) < 2 or quote not in (b"'", b'"') or line[-1:] != quote:  # noqa: PLR2004 - two quotes
        raise MalformedError("a string without quotes")
    if b"\\" in _ESCAPE.sub(b"", line[1:-1]):
        raise MalformedError("an escape that Python 2 never wrote")
    return codecs.escape_decode(line[1:-1])[0]


def _sized(machine: _Machine, width: int) -> bytes:
    return machine.take(machine.take_number(width))


def _sized_text(machine: _Machine, width: int) -> str:
    return _sized(machine, width).decode("utf-8")


def _double(machine: _Machine) -> float:
    return float(struct.unpack(">d", machine.take(8))[0])


def _check_protocol(machine: _Machine) -> None:
    protocol = machine.take_number(1)
    if protocol > _NEWEST_PROTOCOL:
        raise MalformedError(f"protocol {protocol} is newer than {_NEWEST_PROTOCOL}")


def _check_frame(machine: _Machine) -> None:
    size, left = machine.take_number(8), len(machine.data) - machine.position
    if size > left:
        raise MalformedError(f"a frame of {size} bytes where {left} are left")


# ---------------------------------------------------------------------------------------------- memo and containers


def _memoize(machine: _Machine) -> None:
    _remember(machine, len(machine.memo))


def _remember(machine: _Machine, index: int) -> None:
    if not machine.stack:
        raise MalformedError("nothing is on the stack")
    machine.memo[index] = machine.stack[-1]


def _recall(machine: _Machine, index: int) -> None:
    if index not in machine.memo:
        raise MalformedError(f"nothing was remembered as {index}")
    machine.stack.append(machine.memo[index])


def _tuple(machine: _Machine, size: int) -> None:
    items = [machine.pop() for _ in range(size)]
    machine.push_container(tuple(reversed(items)))


def _marked_tuple(machine: _Machine) -> None:
    machine.push_container(tuple(machine.pop_to_mark()))


def _marked_list(machine: _Machine) -> None:
    machine.push_container(machine.pop_to_mark())


def _marked_dict(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.push_container(filled({}, items))


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.top(list).extend(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    filled(machine.top(dict), [key, value])


def _set_items(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    filled(machine.top(dict), items)


# ------------------------------------------------------------------------------------------------- names and calls


def _global_lines(machine: _Machine) -> Name:
    module, name = machine.take_line(), machine.take_line()
    return admitted(f"{module.decode()}.{name.decode()}")


def _global_from_stack(machine: _Machine) -> Name:
    name, module = machine.pop(str), machine.pop(str)
    return admitted(f"{module}.{name}")


def _reduce(machine: _Machine) -> None:
    arguments, name = machine.pop(tuple), machine.pop(Name)
    call = CALLS.get(name)
    if call is None:
        raise MalformedError(f"{name} is not called in test data")
    try:
        value = call(machine.allowance, *arguments)
    except TypeError as error:
        raise MalformedError(f"{name} is not called with these {len(arguments)} arguments") from error
    machine.push_container(value)


def _build(machine: _Machine) -> None:
    state = machine.pop(tuple)
    set_state(machine.top(object), state)


_BY_NAME: dict[str, tuple[bytes, Callable[[_Machine], None] | None]] = {
    "STOP": (b".", None),
    "PROTO": (b"\x80", _check_protocol),
    "FRAME": (b"\x95", _check_frame),
    "NONE": (b"N", _constant(value=None)),
    "NEWTRUE": (b"\x88", _constant(value=True)),
    "NEWFALSE": (b"\x89", _constant(value=False)),
    "INT": (b"I", _push(_integer_line)),
    "LONG": (b"L", _push(_integer_line)),
    "BININT": (b"J", _push(lambda machine: int.from_bytes(machine.take(4), "little", signed=True))),
    "BININT1": (b"K", _push(partial(_Machine.take_number, width=1))),
    "BININT2": (b"M", _push(partial(_Machine.take_number, width=2))),
    "LONG1": (b"\x8a", _push(partial(_long, width=1))),
    "LONG4": (b"\x8b", _push(partial(_long, width=4))),
    "FLOAT": (b"F", _push(lambda machine: float(machine.take_line()))),
    "BINFLOAT": (b"G", _push(_double)),
    "STRING": (b"S", _push(_quoted_line)),
    "BINSTRING": (b"T", _push(partial(_sized, width=4))),
    "SHORT_BINSTRING": (b"U", _push(partial(_sized, width=1))),
    "BINBYTES": (b"B", _push(partial(_sized, width=4))),
    "SHORT_BINBYTES": (b"C", _push(partial(_sized, width=1))),
    "BINBYTES8": (b"\x8e", _push(partial(_sized, width=8))),
    "BYTEARRAY8": (b"\x96", _push(partial(_sized, width=8))),
    "UNICODE": (b"V", _push(lambda machine: machine.take_line(None).decode("raw-unicode-escape"))),
    "BINUNICODE": (b"X", _push(partial(_sized_text, width=4))),
    "SHORT_BINUNICODE": (b"\x8c", _push(partial(_sized_text, width=1))),
    "BINUNICODE8": (b"\x8d", _push(partial(_sized_text, width=8))),
    "MARK": (b"(", _Machine.mark),
    "EMPTY_TUPLE": (b")", partial(_tuple, size=0)),
    "TUPLE1": (b"\x85", partial(_tuple, size=1)),
    "TUPLE2": (b"\x86", partial(_tuple, size=2)),
    "TUPLE3": (b"\x87", partial(_tuple, size=3)),
    "TUPLE": (b"t", _marked_tuple),
    "EMPTY_LIST": (b"]", lambda machine: machine.push_container([])),
    "LIST": (b"l", _marked_list),
    "APPEND": (b"a", _append),
    "APPENDS": (b"e", _appends),
    "EMPTY_DICT": (b"}", lambda machine: machine.push_container({})),
    "DICT": (b"d", _marked_dict),
    "SETITEM": (b"s", _set_item),
    "SETITEMS": (b"u", _set_items),
    "GET": (b"g", lambda machine: _recall(machine, _integer_line(machine))),
    "BINGET": (b"h", lambda machine: _recall(machine, machine.take_number(1))),
    "LONG_BINGET": (b"j", lambda machine: _recall(machine, machine.take_number(4))),
    "PUT": (b"p", lambda machine: _remember(machine, _integer_line(machine))),
    "BINPUT": (b"q", lambda machine: _remember(machine, machine.take_number(1))),
    "LONG_BINPUT": (b"r", lambda machine: _remember(machine, machine.take_number(4))),
    "MEMOIZE": (b"\x94", _memoize),
    "GLOBAL": (b"c", _push(_global_lines)),
    "STACK_GLOBAL": (b"\x93", _push(_global_from_stack)),
    "REDUCE": (b"R", _reduce),
    "BUILD": (b"b", _build),
}

_INSTRUCTIONS = {code[0]: (name, operate) for name, (code, operate) in _BY_NAME.items()}
