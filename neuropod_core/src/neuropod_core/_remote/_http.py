"""A file behind HTTP, read by ranges (RFC 9110, section 14), believing nothing of what the server says."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib import error as urllib_error
from urllib import request as urllib_request
from urllib.parse import unquote, urlsplit, urlunsplit

from neuropod_core._remote._files import Interruption, RemoteFile, moved, patiently
from neuropod_core.errors import NeuropodError, PackageNotFoundError, SourceError
from neuropod_core.limits import Limits
from neuropod_core.sources import without_secrets

__all__ = ["HttpFile"]

_PIECE_BYTES = 256 << 10
_LEAST_BYTES = 1024  # that arrive while the limit of silence lasts: what is slower is as good as silent.
_PART = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+)", re.ASCII)
_OK, _PARTIAL, _PRECONDITION, _NOT_SATISFIABLE = 200, 206, 412, 416
_ABSENT, _FORBIDDEN, _BUSY = (404, 410), (401, 403, 407), (408, 425, 429, 500, 502, 503, 504)


class HttpFile(RemoteFile):
    """What a server gives for a URL of ``http`` or ``https``."""

    def __init__(self, url: str, place: str, limits: Limits) -> None:
        self.place, self._silence_s = place, limits.silence_seconds
        self._url, self._headers = _apart(url)
        self.size, self.validator, self.ranged = patiently(place, self._looked)

    def read(self, start: int, stop: int) -> bytes:
        return b"" if start == stop else patiently(self.place, lambda: b"".join(self._part(start, stop)))

    def stream(self, start: int) -> Iterator[bytes]:
        if self.ranged and self.size is not None:
            if start < self.size:
                yield from self._part(start, self.size)
            return
        with self._asked({}) as response:
            self._check_same(response)
            yield from self._pieces(response, self.size)

    def check_unchanged(self) -> None:
        """Nothing to ask: every answer names the state that it is of."""

    # -- answers

    def _looked(self) -> tuple[int | None, str, bool]:
        with self._asked({"Range": "bytes=0-0"}) as response:
            if response.status == _PARTIAL:
                start, stop, size = self._part_of(response)
                if (start, stop) != (0, 1):
                    raise SourceError(f"the server gave bytes {start} to {stop} of 0 to 1", self.place)
                return size, _validator(response), True
            return _length(response, self.place), _validator(response), False

    def _part(self, start: int, stop: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if self.validator.startswith('"'):  # A weak one compares unequal to itself here.
            headers["If-Range"] = self.validator
        with self._asked(headers) as response:
            self._check_same(response)
            if response.status != _PARTIAL:
                raise SourceError("the server gave ranges at first, and gives none any more", self.place, "try again")
            if self._part_of(response) != (start, stop, self.size):
                raise moved(self.place)
            yield from self._pieces(response, stop - start)

    def _part_of(self, response: http.client.HTTPResponse) -> tuple[int, int, int]:
        found = _PART.fullmatch((response.headers.get("Content-Range") or "").strip())
        if found is None:
            raise SourceError("the server gave a part and does not say which", self.place, "download it first")
        first, last, size = map(int, found.groups())
        return first, last + 1, size

    def _check_same(self, response: http.client.HTTPResponse) -> None:
        if _validator(response) != self.validator:
            raise moved(self.place)

    def _pieces(self, response: http.client.HTTPResponse, wanted: int | None) -> Iterator[bytes]:
        """Give what arrives, of which there must be as much as `wanted`, where that is known."""
        got = counted = 0
        since = time.monotonic()
        while piece := _some(response):
            got += len(piece)
            if wanted is not None and got > wanted:
                raise SourceError(f"the server sent more than the {wanted} bytes that it announced", self.place)
            yield piece
            if time.monotonic() - since > self._silence_s:
                if got - counted < _LEAST_BYTES:
                    raise Interruption(f"{got - counted} bytes came in {self._silence_s:g} s")
                since, counted = time.monotonic(), got
        if wanted is not None and got < wanted:
            raise Interruption(f"the connection ended after {got} of {wanted} bytes")

    # -- questions

    @contextmanager
    def _asked(self, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        request = urllib_request.Request(self._url, headers={**self._headers, **headers})  # noqa: S310 - see `_opener`
        with self._http_errors(), _opener().open(request, timeout=self._silence_s) as response:
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise SourceError(f"the server sends it encoded as {encoding[:40]!r}, unasked", self.place)
            yield response

    @contextmanager
    def _http_errors(self) -> Iterator[None]:
        try:
            yield
        except NeuropodError:
            raise
        except urllib_error.HTTPError as error:
            error.close()
            reason = " ".join(without_secrets(str(error.reason)).split())[:200]
            raise self._refusal(error.code, reason) from error
        except (OSError, http.client.HTTPException) as error:  # Time-outs and TLS are among them.
            cause = getattr(error, "reason", error)
            raise Interruption(f"{type(cause).__name__}: {without_secrets(str(cause))[:200]}") from error
        except ValueError as error:  # A header or a URL, perhaps of a redirection, that cannot be.
            raise SourceError(f"cannot be asked for: {without_secrets(str(error))[:200]}", self.place) from error

    def _refusal(self, code: int, reason: str) -> Exception:
        answer = f"the server answers {code} ({reason})"
        if code in _ABSENT:
            return PackageNotFoundError(f"there is no package: {answer}", at=self.place, remedy="check the URL")
        if code in _BUSY:
            return Interruption(answer)
        if code == _PRECONDITION or (code == _NOT_SATISFIABLE and hasattr(self, "ranged")):
            return moved(self.place)
        if code == _NOT_SATISFIABLE:
            return SourceError("is empty, or the server does not give its first byte", self.place)
        remedy = "put a name and a password into the URL, or a signature" if code in _FORBIDDEN else ""
        return SourceError(answer, self.place, remedy)


def _apart(url: str) -> tuple[str, dict[str, str]]:
    """Take credentials out of a URL and put them where they belong."""
    headers = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "neuropod"}
    scheme, host, path, query, _ = urlsplit(url)
    user, at, host = host.rpartition("@")
    if at:
        headers["Authorization"] = "Basic " + b64encode(unquote(user).encode()).decode("ascii")
    return urlunsplit((scheme, host, path or "/", query, "")), headers


def _validator(response: http.client.HTTPResponse) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _length(response: http.client.HTTPResponse, place: str) -> int | None:
    length = response.headers.get("Content-Length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()):
        raise SourceError(f"the server announces {length[:40]!r} bytes", place)
    return int(length)


def _some(response: http.client.HTTPResponse) -> bytes:
    """Read what is there, at most a piece: `read` would wait for a whole one, however slowly it comes."""
    return response.read1(_PIECE_BYTES)


class _Timed(http.client.HTTPConnection):
    """A connection whose answer begins in time: a socket alone would wait for each byte of its head anew."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()
        timer = threading.Timer(self.timeout or 0.0, _hang_up, (self.sock, late))
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            if not late.is_set():
                raise
            raise self._too_late() from error  # What was raised is what hanging up looks like from here.
        finally:
            timer.cancel()
        if late.is_set():
            response.close()
            raise self._too_late()
        return response

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"no answer within {self.timeout or 0:g} s")


class _TimedTls(_Timed, http.client.HTTPSConnection):
    """The same, over TLS."""


def _hang_up(connection: socket.socket | None, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)


class _Http(urllib_request.HTTPHandler):
    def http_open(self, req: urllib_request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Timed, req)


class _Https(urllib_request.HTTPSHandler):
    def https_open(self, req: urllib_request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TimedTls, req)  # With the certificates of the system, which are checked.


class _Redirections(urllib_request.HTTPRedirectHandler):
    """Follows the server to other servers; never to files, never out of TLS, and never with the password."""

    def http_error_302(self, req: urllib_request.Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(  # noqa: PLR0917 - as it is called
        self, req: urllib_request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib_request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            what = f"the server sends its caller to {new.scheme}://, from {old.scheme}://"
            raise SourceError(what, without_secrets(f"package+{req.full_url}"), "ask for what it leads to")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            request.remove_header("Authorization")
        return request


def _opener() -> urllib_request.OpenerDirector:
    """Make an opener that speaks HTTP and nothing else; proxies are those of the environment."""
    opener = urllib_request.OpenerDirector()
    for handler in (
        urllib_request.ProxyHandler(),
        _Http(),
        _Https(),
        urllib_request.HTTPDefaultErrorHandler(),
        _Redirections(),
        urllib_request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
