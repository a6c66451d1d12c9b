"""A real HTTP server with ranges that counts what it sends, and misbehaves where a test asks for it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from neuropod_core._remote import _downloads, _files

RANGE = re.compile(r"bytes=(\d+)-(\d*)$")

Hook = Callable[["Handler"], bool]


class Server(ThreadingHTTPServer):
    """Serves `files`; `hook` may answer a request itself, and returns whether it did."""

    daemon_threads = False  # Closing the server waits for what it still answers.

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges, self.validated, self.sized = True, True, True
        self.cut_after: int | None = None  # Bytes of a body after which each connection is cut.
        self.hook: Hook = lambda _: False
        self.sent = 0
        self.asked: list[tuple[str, str | None]] = []
        self.changed = threading.Condition()

    def url(self, name: str) -> str:
        return f"package+http://127.0.0.1:{self.server_port}/{name}"

    def count(self, sent: int) -> None:
        with self.changed:
            self.sent += sent
            self.changed.notify_all()

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: the client goes away when it likes."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.server.hook(self):
            return
        content = self.server.files.get(self.path.lstrip("/").partition("?")[0])
        if content is None:
            self.send_error(404)
            return
        etag = f'"{md5(content, usedforsecurity=False).hexdigest()}"'
        if_range = self.headers.get("If-Range", etag)
        found = RANGE.match(wanted or "")
        if found and self.server.ranges and if_range == etag:
            start, stop = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
            self.give(206, content[start:stop], etag, f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.give(200, content, etag)

    def give(self, code: int, body: bytes, etag: str = "", content_range: str = "", length: int | None = None) -> None:
        self.send_response(code)
        if etag and self.server.validated:
            self.send_header("ETag", etag)
        if content_range:
            self.send_header("Content-Range", content_range)
        if self.server.sized:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        self.pour(body)

    def pour(self, body: bytes) -> None:
        most = len(body) if self.server.cut_after is None else min(len(body), self.server.cut_after)
        self.wfile.write(body[:most])
        self.server.count(most)
        if most < len(body):
            self.connection.shutdown(socket.SHUT_RDWR)

    def redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
        """Write nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a running server."""
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(_downloads, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def large(write: Callable[..., Path], tmp_path: Path) -> bytes:
    """Give a package of 2 MB, whose declaration lies far from its end."""
    rng = np.random.default_rng(1)
    x = rng.random((1 << 17, 1)).astype(np.float32)
    path = write(tmp_path / "large.neuropod", test_input_data={"x": x, "y": x}, zip_compression="stored")
    return path.read_bytes()


@pytest.fixture
def small(write: Callable[..., Path], tmp_path: Path) -> bytes:
    """Give a package of a kilobyte."""
    x = np.ones((1, 1), np.float32)
    return write(tmp_path / "small.neuropod", test_input_data={"x": x, "y": x}).read_bytes()
