"""Protocol Buffers on the wire: enough to look into a file that somebody else wrote, without believing any of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

__all__ = ["MalformedError", "TooManyFieldsError", "Wire"]

Bytes = bytes | mmap.mmap

_VARINT, _FIXED64, _MESSAGE, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_TAG_BYTES, _LENGTH_BYTES, _NUMBER_BYTES = 5, 5, 10
_LARGEST_TAG = 2**32 - 1
_NUMBER_MASK = 2**64 - 1
_SIGN = 2**63
_CONTINUES = 0x80


class MalformedError(ValueError):
    """The bytes are no message; what a lenient parser makes of them is not known, so they are refused."""


class TooManyFieldsError(ValueError):
    """The message has more fields than this reader was given leave to look at."""


class Wire:
    """The bytes of one message, read field by field.

    Parameters
    ----------
    data
        The whole message.
    most_fields
        How many fields may be read in all, in messages within messages too.
    """

    def __init__(self, data: Bytes, most_fields: int) -> None:
        self._data = data
        self._left = most_fields

    def fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Give the fields of the message between `start` and `stop`: number, value, -1; or number, start, stop.

        Numbers of fixed size are left out.

        Raises
        ------
        MalformedError, TooManyFieldsError
        """
        position = start
        while position < stop:
            self._left -= 1
            if self._left < 0:
                raise TooManyFieldsError
            tag, position = self._varint(position, stop, _TAG_BYTES)
            number, kind = tag >> 3, tag & 7
            if number == 0 or tag > _LARGEST_TAG:
                raise MalformedError
            if kind == _MESSAGE:
                length, position = self._varint(position, stop, _LENGTH_BYTES)
                if length > stop - position:
                    raise MalformedError
                yield number, position, position + length
                position += length
            elif kind == _VARINT:
                value, position = self._varint(position, stop, _NUMBER_BYTES)
                yield number, value & _NUMBER_MASK, -1
            else:
                position = self._after_fixed(kind, position, stop)

    def numbers(self, start: int, stop: int) -> Iterator[int]:
        """Give the numbers of a packed field."""
        position = start
        while position < stop:
            self._left -= 1
            if self._left < 0:
                raise TooManyFieldsError
            value, position = self._varint(position, stop, _NUMBER_BYTES)
            yield signed(value & _NUMBER_MASK)

    def content(self, start: int, stop: int) -> bytes:
        """Give the bytes of a field."""
        return self._data[start:stop]

    def mentions(self, words: tuple[bytes, ...], start: int, stop: int) -> bool:
        """Whether one of `words` occurs in a field, however deep: texts are not split on the wire."""
        return any(self._data.find(word, start, stop) >= 0 for word in words)

    def _varint(self, position: int, stop: int, most_bytes: int) -> tuple[int, int]:
        data, value = self._data, 0
        for shift in range(0, 7 * most_bytes, 7):
            if position >= stop:
                break
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < _CONTINUES:
                return value, position
        raise MalformedError

    @staticmethod
    def _after_fixed(kind: int, position: int, stop: int) -> int:
        # Groups, which no version of the format uses, count as malformed.
        size = _FIXED_BYTES.get(kind)
        if size is None or size > stop - position:
            raise MalformedError
        return position + size


def signed(value: int) -> int:
    """Read the 64 bits of a varint as an ``int64``."""
    return value - 2 * _SIGN if value >= _SIGN else value
