"""Files that fsspec reads: object stores, hubs, archives inside of others, and whatever else has a driver."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from neuropod_core._remote._containers import RemoteFolder
from neuropod_core._remote._files import Interruption, RemoteFile, moved, patiently
from neuropod_core.errors import NeuropodError, PackageIntegrityError, PackageNotFoundError, SourceError
from neuropod_core.limits import Limits
from neuropod_core.sources import Source, without_secrets

__all__ = ["open_object"]

_CHUNK_BYTES = 8 << 20
_MISSING_EXTRA = "run: pip install 'neuropod-core[remote-files]'"
# What file systems call the thing that changes with the content; sizes alone say nothing.
_VALIDATORS = (
    *("etag", "e_tag", "md5", "content_md5", "md5hash", "crc32c", "crc", "generation", "version_id", "versionid"),
    *("sha", "sha256", "hash", "blob_id", "commit_hash", "last_commit", "mtime", "lastmodified", "last_modified"),
    *("updated", "modified", "date_time", "created", "ino"),
)


def open_object(source: Source, limits: Limits) -> RemoteFile | RemoteFolder:
    """Find what lies behind a URL of fsspec: a file or a folder."""
    place = source.place
    fs, path = _file_system(source.url, place)
    with _object_errors(place):
        fs.invalidate_cache()  # Another process may have written since this one looked.
        info = fs.info(path)
    if info.get("type") != "directory":
        return ObjectFile(fs, path, place, info)
    return RemoteFolder(place, lambda: _files_below(fs, path, place), limits)


class ObjectFile(RemoteFile):
    """A file of an fsspec file system."""

    def __init__(self, fs: Any, path: str, place: str, info: Mapping[str, Any]) -> None:
        self._fs, self._path, self.place = fs, path, place
        size = info.get("size")
        self.size = size if isinstance(size, int) else None
        self.validator = _validator(info)

    def read(self, start: int, stop: int) -> bytes:
        return patiently(self.place, lambda: self._range(start, stop))

    def stream(self, start: int) -> Iterator[bytes]:
        if self.size is None:
            raise SourceError("does not say how long it is", self.place)
        while start < self.size:
            yield (piece := self._range(start, min(start + _CHUNK_BYTES, self.size)))
            start += len(piece)

    def check_unchanged(self) -> None:
        with _object_errors(self.place):
            self._fs.invalidate_cache()
            info = self._fs.info(self._path)
        if (info.get("size"), _validator(info)) != (self.size, self.validator):
            raise moved(self.place)

    def _range(self, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        with _object_errors(self.place, again=True):
            data = bytes(self._fs.cat_file(self._path, start=start, end=stop))
        if len(data) != stop - start:
            raise PackageIntegrityError(self.place, f"{stop - start} bytes at {start}", f"{len(data)}", "try again")
        return data


def _files_below(fs: Any, path: str, place: str) -> dict[str, RemoteFile]:
    with _object_errors(place):
        fs.invalidate_cache()
        found = fs.find(path, detail=True)
    root = path.rstrip("/") + "/"
    files: dict[str, RemoteFile] = {}
    for name, info in found.items():
        relative = str(name).removeprefix(root)
        if relative and not relative.endswith("/"):  # Object stores mark folders by empty objects.
            files[relative] = ObjectFile(fs, str(name), f"{place}/{relative}", info)
    return files


def _validator(info: Mapping[str, Any]) -> str:
    lowered = {str(key).lower().replace("-", "_"): value for key, value in info.items()}
    known = {key: str(lowered[key]) for key in _VALIDATORS if lowered.get(key) not in (None, "")}
    return json.dumps(known, sort_keys=True) if known else ""


# -- fsspec -----------------------------------------------------------------------------------------------------------


def _file_system(url: str, place: str) -> tuple[Any, str]:
    if find_spec("fsspec") is None:
        raise SourceError("URLs like this are read by fsspec, which is not installed", place, _MISSING_EXTRA)
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        raise _without_driver(url, place, error) from error
    except ValueError as error:
        remedy = "check the spelling; fsspec.available_protocols() lists what can be read"
        raise SourceError(f"fsspec does not take it: {_shown(error)}", place, remedy) from error
    except Exception as error:  # A driver may look for credentials, and raise what it likes.
        raise SourceError(f"cannot be reached: {_shown(error)}", place) from error
    return fs, str(path)


def _without_driver(url: str, place: str, error: ImportError) -> SourceError:
    from fsspec.registry import known_implementations

    drivers = []
    for protocol in (part.partition("://")[0] for part in url.split("::")):
        module = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
        drivers += [module] if module and module != "fsspec" and find_spec(module) is None else []
    missing = error.name or getattr(error.__cause__, "name", None) or ""
    wanted = drivers or ([missing.partition(".")[0]] if missing else [])
    remedy = f"run: pip install {' '.join(wanted)}" if wanted else ""
    return SourceError(f"a driver that fsspec needs for it is not installed ({_shown(error)})", place, remedy)


@contextmanager
def _object_errors(place: str, *, again: bool = False) -> Iterator[None]:
    """Translate what a driver raises: there is no list of that, each has its own."""
    try:
        yield
    except NeuropodError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackageNotFoundError("there is no package", at=place, remedy="check the URL") from error
    except PermissionError as error:
        raise SourceError(f"access is denied: {_shown(error)}", place, "give the driver credentials") from error
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        remedy = f"run: pip install {name}" if name else ""
        raise SourceError(f"a library is missing: {_shown(error)}", place, remedy) from error
    except Exception as error:
        if again:
            raise Interruption(_shown(error)) from error
        raise SourceError(f"cannot be read: {_shown(error)}", place, "try again later") from error


def _shown(error: BaseException) -> str:
    text = " ".join(without_secrets(str(error)).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
