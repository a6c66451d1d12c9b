"""Messages between a parent and its worker over their Unix socket: JSON with a length before it, descriptors beside it.

What the other side says is read as data, up to a size, and never unpickled. Descriptors go one way: to the worker.
"""

from __future__ import annotations

import json
import os
import socket
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from neuropod_core._json import parse_object
from neuropod_core.errors import PackageError, WorkerProtocolError, WorkerStartError, shown

PROTOCOL = 1
"""Version of everything that parent and worker say to each other; a parent speaks all versions up to its own."""

_LENGTH_BYTES = 4
_MOST_BYTES = 64 << 20
_MOST_DESCRIPTORS = 250  # The kernel passes 253 at a time.


def check_version(version: object) -> None:
    """Hold what a worker says first against what is spoken here.

    Raises
    ------
    WorkerStartError
        If they have no version in common.
    """
    if type(version) is not int or not 1 <= version <= PROTOCOL:
        what = f"the worker speaks version {shown(version)} of the protocol, this process 1 to {PROTOCOL}"
        raise WorkerStartError(what, remedy="give the worker's environment a neuropod-core that is not newer than here")


def send(link: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    body = json.dumps(message).encode()
    whole = len(body).to_bytes(_LENGTH_BYTES, "big") + body
    sent = socket.send_fds(link, [whole], list(descriptors)) if descriptors else link.send(whole)
    if sent < len(whole):
        link.sendall(whole[sent:])


def send_at_once(link: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Send a short message without waiting for the other side to read it.

    Raises
    ------
    BlockingIOError
        If the other side has not read for so long that there is no room for it.
    OSError
        If the other side is gone.
    """
    body = json.dumps(message).encode()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
    link.sendmsg([len(body).to_bytes(_LENGTH_BYTES, "big") + body], [rights], socket.MSG_DONTWAIT)


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Wait for one message and the descriptors beside it; None at the end of the connection.

    Raises
    ------
    WorkerProtocolError
        If what comes is no message.
    OSError
        If the connection breaks.
    """
    head, descriptors, *_ = socket.recv_fds(link, _LENGTH_BYTES, _MOST_DESCRIPTORS)
    try:
        body = _rest(link, bytes(head))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return None if body is None else (parsed(body), descriptors)


def parsed(body: bytes) -> dict[str, Any]:
    """Read the JSON of a message.

    Raises
    ------
    WorkerProtocolError
        If it is none.
    """
    try:
        return parse_object(body, "a message")
    except PackageError as error:
        raise WorkerProtocolError(f"a message cannot be read: {error}") from error


class Inbox:
    """Puts together what comes in pieces from a socket that does not block; takes no descriptors."""

    def __init__(self, link: socket.socket, most_bytes: int = _MOST_BYTES) -> None:
        self._link, self._most_bytes, self._bytes = link, most_bytes, bytearray()
        self.ended = False

    def messages(self) -> list[dict[str, Any]]:
        """Give the messages that are complete by now."""
        self._read()
        found = []
        while len(self._bytes) >= _LENGTH_BYTES:
            length = int.from_bytes(self._bytes[:_LENGTH_BYTES], "big")
            if length > self._most_bytes:
                raise WorkerProtocolError(f"a message of {length} bytes is too long")
            if len(self._bytes) < _LENGTH_BYTES + length:
                break
            found.append(parsed(bytes(self._bytes[_LENGTH_BYTES : _LENGTH_BYTES + length])))
            del self._bytes[: _LENGTH_BYTES + length]
        return found

    def _read(self) -> None:
        try:
            data = self._link.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = self.ended or not data
        self._bytes += data


def _rest(link: socket.socket, head: bytes) -> bytes | None:
    head += _exactly(link, _LENGTH_BYTES - len(head)) if head else b""
    if len(head) < _LENGTH_BYTES:
        return None
    length = int.from_bytes(head, "big")
    if length > _MOST_BYTES:
        raise WorkerProtocolError(f"a message of {length} bytes is too long")
    body = _exactly(link, length)
    return body if len(body) == length else None


def _exactly(link: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = link.recv(min(count - len(parts), 1 << 20))
        if not part:
            break
        parts += part
    return bytes(parts)
