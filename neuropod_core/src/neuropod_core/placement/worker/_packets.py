"""Calls and answers as bytes on a socket: a header, JSON, how long the texts are, then the tensors one after another.

Either side reads what the other one says as data: every size is held against a limit, and against the sizes of the
tensors, before any memory is taken for it; tensors are received into arrays of their own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Names, Tensors
from neuropod_core.errors import InferenceError, SharedMemoryError, WorkerProtocolError
from neuropod_core.placement.worker._frames import parsed
from neuropod_core.placement.worker._layouts import (
    MOST_LAYOUTS,
    Layout,
    Place,
    decode_text,
    encode_text,
    facts_of,
    layout_from_json,
    layout_of,
    orders_of,
)
from neuropod_core.placement.worker._segments import larger_limit

CALL, RESULTS, ERROR = 1, 2, 3

HEADER = Struct("<QQQQQ")
"""Kind, number of the call, bytes of JSON, how many texts, bytes of all tensors together."""

_AT_ONCE_BYTES = 1 << 20
"""So much is sent or received before somebody looks at the time, or the event loop goes on."""

_MOST_BUFFERS = 16


class Bounds:
    """How large a call may be: both sides compute it alike.

    Parameters
    ----------
    limit_bytes
        The most that the tensors of a call, or of an answer, take.
    tensors
        How many tensors the problem has.
    """

    def __init__(self, limit_bytes: int, tensors: int) -> None:
        self.limit_bytes, self.tensors = limit_bytes, max(64, tensors)
        self.message_bytes = (64 << 10) + 1024 * tensors


class Introduction:
    """Writes the JSON of calls or answers, and remembers what it wrote for which layout."""

    def __init__(self, bounds: Bounds, *, keeps_order: bool = True) -> None:
        self.bounds, self._keeps_order = bounds, keeps_order
        self._known: dict[Any, tuple[Layout, bytes]] = {}

    def of(self, tensors: Mapping[str, Array], outputs: Names = None) -> tuple[Layout, bytes]:
        """Give the layout of `tensors`, and the JSON that says it.

        Raises
        ------
        InferenceError
            If it is too long.
        """
        names = None if outputs is None else tuple(outputs)
        orders = orders_of(tensors, keeps_order=self._keeps_order)
        key = (names, *facts_of(tensors, (), orders))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MOST_LAYOUTS:
                self._known.clear()
            known = self._known[key] = self._written(layout_of(tensors, (), orders), names)
        return known

    def _written(self, layout: Layout, names: Names) -> tuple[Layout, bytes]:
        message = json.dumps({"tensors": layout.to_json(), "outputs": names}).encode()
        if len(layout.places) > self.bounds.tensors:
            raise InferenceError(f"{len(layout.places)} tensors at once are more than the problem has")
        if len(message) > self.bounds.message_bytes:
            raise InferenceError(f"the names and shapes of a call take {len(message)} bytes: too many")
        return layout, message


class Outgoing:
    """What is to be sent, piece by piece.

    Attributes
    ----------
    header
        What it begins with.
    begun, done
        Whether any of it was sent, and all of it.
    """

    def __init__(self, kind: int, call: int, message: bytes, bodies: list[Any], texts: bytes = b"") -> None:
        nbytes = sum(len(body) for body in bodies)
        self.header = HEADER.pack(kind, call, len(message), len(texts) // 8, nbytes)
        self._pieces = [memoryview(self.header + message + texts)]
        for body in bodies:
            view = memoryview(body)
            self._pieces += [view[at : at + _AT_ONCE_BYTES] for at in range(0, len(body), _AT_ONCE_BYTES)]
        self._pieces.reverse()  # The next one is the last, so that it is cheap to take away.
        self.begun = self.done = False

    def send(self, link: socket.socket) -> bool:
        """Send a part, as much as the socket takes; tell whether that was all.

        Raises
        ------
        OSError
            If nobody can receive it any more.
        """
        left = _AT_ONCE_BYTES
        while self._pieces and left > 0:
            try:
                sent = link.sendmsg(self._pieces[: -_MOST_BUFFERS - 1 : -1])
            except BlockingIOError:
                return False
            self.begun = True
            left -= sent
            self._forget(sent)
        self.done = not self._pieces
        return self.done

    def _forget(self, sent: int) -> None:
        pieces = self._pieces
        while pieces and sent >= len(pieces[-1]):
            sent -= len(pieces.pop())
        if sent:
            pieces[-1] = pieces[-1][sent:]


def outgoing(kind: int, call: int, tensors: Tensors, introduction: Introduction, outputs: Names = None) -> Outgoing:
    """Make a call, or an answer, of tensors in the form that travels (see `_layouts.plain`).

    Raises
    ------
    SharedMemoryError
        If they take more than a call may.
    TensorMismatchError, InferenceError
        If they cannot travel.
    """
    layout, message = introduction.of(tensors, outputs)
    if layout.content_bytes > introduction.bounds.limit_bytes:
        raise _too_large(layout.content_bytes, introduction.bounds.limit_bytes)
    bodies: list[Any] = []
    ends: list[int] = []
    for place in layout.places:
        if place.is_text:
            bodies.append(encode_text(tensors[place.name]))
            ends.append(len(bodies[-1]))
        elif place.nbytes:
            bodies.append(place.touching(tensors[place.name]).reshape(-1).view(np.uint8))
    nbytes = sum(len(body) for body in bodies)
    if nbytes > introduction.bounds.limit_bytes:
        raise _too_large(nbytes, introduction.bounds.limit_bytes)
    return Outgoing(kind, call, message, bodies, np.array(ends, np.uint64).tobytes())


class Layouts:
    """Reads the JSON of calls or answers, and remembers what it read."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self._known = bounds, dict[bytes, tuple[dict[str, Any], Layout]]()

    def read(self, body: bytes) -> tuple[dict[str, Any], Layout]:
        """Give what it says, and the layout among that.

        Raises
        ------
        WorkerProtocolError
            If it is none.
        """
        known = self._known.get(body)
        if known is None:
            message = parsed(body)
            layout = layout_from_json(message.get("tensors"))
            if len(layout.places) > self.bounds.tensors:
                raise WorkerProtocolError(f"{len(layout.places)} tensors are more than there can be")
            if len(self._known) >= MOST_LAYOUTS:
                self._known.clear()
            known = self._known[body] = message, layout
        return known


class Incoming:
    """What is received, piece by piece.

    Attributes
    ----------
    kind, call
        What the header says.
    message
        The JSON.
    tensors
        Arrays that belong to whoever takes them; complete when `receive` says so.
    """

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self.kind = self.call = 0
        self.message: dict[str, Any] = {}
        self.tensors: Tensors = {}
        self._parts = self._wanted_parts()
        self._wanted = next(self._parts)

    def receive(self, link: socket.socket) -> bool:
        """Receive a part, as much as is there; tell whether that was the last.

        Raises
        ------
        WorkerProtocolError
            If it cannot be.
        EOFError, OSError
            If nothing more will come.
        """
        left = _AT_ONCE_BYTES
        while self._wants_more():
            if left <= 0:
                return False
            try:
                count = link.recv_into(self._wanted, min(len(self._wanted), _AT_ONCE_BYTES))
            except BlockingIOError:
                return False
            if not count:
                raise EOFError
            left -= count
            self._wanted = self._wanted[count:]
        return True

    def _wants_more(self) -> bool:
        """Look for the next memory to fill; everything is there if there is none."""
        while not len(self._wanted):
            wanted = next(self._parts, None)
            if wanted is None:
                return False
            self._wanted = wanted
        return True

    def _wanted_parts(self) -> Iterator[memoryview]:
        """Give the memory that is to be filled next, until everything is there."""
        bounds, header = self._layouts.bounds, bytearray(HEADER.size)
        yield memoryview(header)
        self.kind, self.call, length, texts, nbytes = HEADER.unpack(header)
        if length > bounds.message_bytes or texts > bounds.tensors or nbytes > bounds.limit_bytes:
            raise WorkerProtocolError(f"a packet of {length} bytes, {texts} texts and {nbytes} bytes is too large")
        said = bytearray(length + 8 * texts)
        yield memoryview(said)
        if self.kind == ERROR and not nbytes:
            self.message = parsed(bytes(said))
            return
        self.message, layout = self._layouts.read(bytes(said[:length]))
        sizes = _text_sizes(layout, np.frombuffer(said, np.uint64, texts, length).tolist(), nbytes)
        received: dict[str, Any] = {}
        for place in layout.places:
            if place.is_text:
                received[place.name] = bytearray(sizes[place.name])
                yield memoryview(received[place.name])
            else:
                received[place.name] = _empty(place)
                yield memoryview(received[place.name].reshape(-1).view(np.uint8))
        self.tensors = {
            place.name: decode_text(bytes(received[place.name]), place)
            if place.is_text
            else place.in_shape(received[place.name])
            for place in layout.places
        }


def _text_sizes(layout: Layout, sizes: list[int], nbytes: int) -> dict[str, int]:
    """Hold what a packet says of itself against what its tensors take; give the bytes of its texts."""
    places = [place for place in layout.places if place.is_text]
    if len(places) != len(sizes):
        raise WorkerProtocolError(f"a packet says {len(sizes)} sizes of {len(places)} texts")
    numbers = sum(place.nbytes for place in layout.places if not place.is_text)
    if numbers + sum(sizes) != nbytes or any(size < 8 * place.items for place, size in zip(places, sizes, strict=True)):
        raise WorkerProtocolError(f"tensors of {numbers} bytes and texts of {sizes} are not {nbytes} bytes")
    return {place.name: size for place, size in zip(places, sizes, strict=True)}


def _empty(place: Place) -> Array:
    try:
        return np.empty(place.touching_shape, place.dtype.numpy)
    except (ValueError, OverflowError) as error:  # A length that no array has, beside one of 0.
        raise WorkerProtocolError(f"no tensor has the shape {list(place.shape)}") from error


def _too_large(nbytes: int, limit_bytes: int) -> SharedMemoryError:
    what = f"{nbytes} bytes do not fit the {limit_bytes} bytes that a call may take"
    return SharedMemoryError(what, remedy=larger_limit(2 * nbytes))
