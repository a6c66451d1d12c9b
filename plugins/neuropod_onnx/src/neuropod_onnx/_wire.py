"""Protocol Buffers on the wire: enough to look into a file that somebody else wrote, without believing any of it."""

from __future__ import annotations

import mmap
import re
from collections.abc import Container, Iterator

__all__ = ["MalformedError", "TooManyFieldsError", "Wire"]

Bytes = bytes | mmap.mmap

_VARINT, _FIXED64, _MESSAGE, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_TAG_BYTES, _LENGTH_BYTES, _NUMBER_BYTES = 5, 5, 10
_LARGEST_FIELD = 2**29 - 1
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

    def fields(self, start: int, stop: int, wanted: Container[int]) -> Iterator[tuple[int, int, int]]:
        """Give the `wanted` fields of the message from `start` to `stop`: number, value, -1; or number, start, stop.

        Numbers of fixed size are left out.

        Raises
        ------
        MalformedError, TooManyFieldsError
        """
        data, position, left = self._data, start, self._left
        while position < stop:
            left -= 1
            if left < 0:
                raise TooManyFieldsError
            tag, position = data[position], position + 1
            if tag >= _CONTINUES:
                tag, position = self._varint(position - 1, stop, _TAG_BYTES)
            kind = tag & 7
            if kind > _MESSAGE or kind == _FIXED64:
                position = self._after_fixed(kind, position, stop)
                continue
            value, position = self._varint(position, stop, _LENGTH_BYTES if kind else _NUMBER_BYTES)
            end = position + value if kind else -1
            if end > stop or not 0 < tag >> 3 <= _LARGEST_FIELD:
                raise MalformedError
            if tag >> 3 in wanted:
                self._left = left
                yield tag >> 3, position if kind else value, end
                left = self._left
            position = end if kind else position
        self._left = left

    def numbers(self, start: int, stop: int) -> Iterator[int]:
        """Give the numbers of a packed field."""
        position = start
        while position < stop:
            self._left -= 1
            if self._left < 0:
                raise TooManyFieldsError
            value, position = self._varint(position, stop, _NUMBER_BYTES)
            yield signed(value)

    def content(self, start: int, stop: int) -> bytes:
        """Give the bytes of a field."""
        return self._data[start:stop]

    def mentions(self, words: re.Pattern[bytes], start: int, stop: int) -> bool:
        """Whether one of `words` occurs in a field, however deep: texts are not split on the wire."""
        return words.search(self._data, start, stop) is not None

    def _varint(self, position: int, stop: int, most_bytes: int) -> tuple[int, int]:
        data, value = self._data, 0
        if position < stop and data[position] < _CONTINUES:
            return data[position], position + 1
        for shift in range(0, 7 * most_bytes, 7):
            if position >= stop:
                break
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < _CONTINUES:
                return value & _NUMBER_MASK, position
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
