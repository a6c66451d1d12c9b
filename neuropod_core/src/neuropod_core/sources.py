"""Where packages come from: paths and URLs, pinned by a hash or not, and what is known of a transfer under way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from neuropod_core.errors import PackageError, PackageNotFoundError, shown

__all__ = ["OnTransfer", "Source", "Transfer"]

HTTP_SCHEMES = ("package+http", "package+https")

_SERVERS = ("http", "https", "grpc", "grpcs")
_PINNED = re.compile(r"(?s)(.+)#sha256=([0-9a-fA-F]{64})")
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_LIKE_A_PIN = re.compile(r"\w+[=:]")
_CREDENTIALS, _QUERY = re.compile(r"//[^/@\s]*@"), re.compile(r"\?(?:(?!::).)*", re.DOTALL)


@dataclass(frozen=True)
class Transfer:
    """How far the transfer of a package is.

    Attributes
    ----------
    place
        What is fetched: a URL without its credentials and its query.
    received
        Bytes that are here, those of an earlier try included.
    total
        Bytes of the whole; None where the server does not say.
    resumed_at
        Bytes that an earlier try had left in the cache.
    """

    place: str
    received: int
    total: int | None
    resumed_at: int = 0


OnTransfer = Callable[[Transfer], None]
"""Called now and then while a package is fetched, and once at its end, from the thread that loads it."""


@dataclass(frozen=True)
class Source:
    """What the caller named.

    Attributes
    ----------
    path
        A folder or a zip file on this machine; None behind a URL.
    url
        The URL; empty for a path.
    sha256
        The hash, in lower case hex, that the archive must have; empty where it is not pinned.
    """

    path: Path | None
    url: str = ""
    sha256: str = ""

    @classmethod
    def parse(cls, source: str | os.PathLike[str]) -> Source:
        """Read a path, a ``file://`` URL, ``package+https://...`` or any URL of fsspec; ``#sha256=<hex>`` pins it.

        Raises
        ------
        PackageNotFoundError
            If it is a path or ``file://`` URL, and there is nothing.
        PackageError
            If it is no place of a package.
        """
        text: object = os.fspath(source)
        if not isinstance(text, str) or "\0" in text or not text:
            raise PackageNotFoundError("the place of a package is a path or a URL", at=repr(text))
        if not isinstance(source, str):  # A path is a path, whatever it looks like.
            return cls(_existing(text))
        text, sha256 = _unpinned(text)
        if not _is_url(text) or text.startswith("file://"):
            return cls(_existing(_path_of_file_url(text) if text.startswith("file://") else text), "", sha256)
        _check_scheme(text)
        return cls(None, text, sha256)

    @property
    def place(self) -> str:
        """What errors and logs call it: no credentials, no query."""
        return str(self.path) if self.path is not None else without_secrets(self.url)


def without_secrets(url: str) -> str:
    """Give a URL as it may be shown: queries may be signed, and before the host there may be a password."""
    return _QUERY.sub("?...", _CREDENTIALS.sub("//", url))


def _is_url(text: str) -> bool:
    return "://" in text and _CHAINED.match(text) is not None


def _unpinned(text: str) -> tuple[str, str]:
    if pinned := _PINNED.fullmatch(text):
        return pinned[1], pinned[2].lower()
    before, hash_sign, fragment = text.rpartition("#")
    like_a_pin = _LIKE_A_PIN.match(fragment) or fragment.startswith("sha")
    if hash_sign and _is_url(text) and (like_a_pin or text.startswith((*HTTP_SCHEMES, "file:"))):
        remedy = "write it like #sha256= and the 64 hexadecimal digits of the archive's hash"
        raise PackageError(f"#{fragment[:80]} pins nothing", at=without_secrets(before), remedy=remedy)
    return text, ""


def _check_scheme(url: str) -> None:
    scheme, place = re.split("::|://", url, maxsplit=1)[0].lower(), without_secrets(url)
    if scheme in _SERVERS:
        remedy = "download the package first"
        if scheme.startswith("http"):
            remedy = f"a package that lies behind it is package+{place}"
        raise PackageError(f"{scheme}:// names a server, not a package", at=place, remedy=remedy)
    if scheme in HTTP_SCHEMES:
        _check_host(url, place)


def _check_host(url: str, place: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise PackageError(f"is no URL: {error}", at=place) from error
    if not host:
        raise PackageError("names no host", at=place, remedy="write it like package+https://host/model.neuropod")


def _existing(text: str) -> Path:
    path = Path(text)
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise PackageNotFoundError("there is no package", at=str(path), remedy="check the path") from error


def _path_of_file_url(url: str) -> str:
    try:
        _, host, path, _, _ = urlsplit(url)
    except ValueError as error:
        raise PackageNotFoundError(f"is no URL: {error}", at=repr(url)) from error
    if host not in ("", "localhost"):
        raise PackageError(f"{shown(host)} is another machine", at=url, remedy="write it like file:///folder/file")
    return unquote(path)
