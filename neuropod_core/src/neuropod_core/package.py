"""A package on disk: opened, bounded and verified before anybody believes it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from neuropod_core import test_data
from neuropod_core._cache import CACHE_VARIABLE, Cache, default_root, private_folder
from neuropod_core._containers import Container, Folder, archive_digest, changed, open_container
from neuropod_core._json import parse_object
from neuropod_core.config import Config, Manifest
from neuropod_core.errors import PackageError, PackageFormatError, PackageIntegrityError, PackageNotFoundError, shown
from neuropod_core.limits import Limits
from neuropod_core.test_data import TestData
from neuropod_core.variants import Variant

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Package"]

CONFIG, MANIFEST = "config.json", "manifest.json"
VARIANT = "0"

_logger = logging.getLogger("neuropod")

_DECODERS = {test_data.FILE_NAME: test_data.decode, test_data.PICKLE_FILE_NAME: test_data.decode_pickle}


class Package:
    """A package, opened for reading.

    What describes it is read at once; its files are verified and unpacked when `folder` or `variant` asks for them.

    Attributes
    ----------
    path
        Where it lies, absolute.
    config
        Its declaration.
    manifest
        Its hashes; None if it has none.
    files
        Relative path -> size in bytes.
    """

    def __init__(self, container: Container, limits: Limits, cache_dir: Path | None) -> None:
        self.path = container.path
        self.files: Mapping[str, int] = MappingProxyType(dict(container.files))
        self._container, self._limits, self._cache_dir = container, limits, cache_dir
        self._closed = False
        self._manifest_bytes = self._optional(MANIFEST, limits.manifest_bytes)
        self.config = Config.from_bytes(self.read(CONFIG, limits.json_bytes), f"{self.path}: {CONFIG}")
        self.manifest = self._read_manifest()
        self._folder: Path | None = None

    @classmethod
    def open(
        cls, source: str | os.PathLike[str], *, limits: Limits | None = None, cache_dir: str | Path | None = None
    ) -> Package:
        """Open a folder, a zip file, or either as a ``file://`` URL.

        Parameters
        ----------
        source
            Where it lies.
        limits
            Bounds on what is read.
        cache_dir
            Where archives are unpacked; None for ``NEUROPOD_CACHE_DIR`` or the user's cache folder.

        Raises
        ------
        PackageNotFoundError
            If there is nothing.
        PackageError
            If it cannot be read as a package.
        """
        path = _local_path(source)
        limits = limits or Limits()
        container = open_container(path, limits)
        try:
            return cls(container, limits, None if cache_dir is None else Path(cache_dir))
        except BaseException:
            container.close()
            raise

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Read one file, of at most `limit` bytes.

        Raises
        ------
        PackageFormatError
            If there is no such file.
        PackageLimitError
            If it is larger.
        """
        if name not in self.files:
            raise PackageFormatError(f"has no {name}", at=str(self.path), remedy="is it a neuropod package?")
        with self._opened() as container:
            return container.read(name, self._limits.total_bytes if limit is None else limit)

    def folder(self) -> Path:
        """Give the folder with all files, verified: the package's own, or where it was unpacked.

        Raises
        ------
        PackageIntegrityError
            If a file is not what the manifest says.
        PackageError
            If there is no room to unpack it.
        """
        if self._folder is None:
            in_place = isinstance(self._container, Folder)
            self._folder = self._verified_in_place() if in_place else self._unpacked()
        return self._folder

    def variant(self) -> Variant:
        """Give the implementation that is run, as its backend sees it: verified files on disk."""
        folder = self.folder() / VARIANT
        return Variant(
            platform=self.config.platform,
            folder=folder,
            problem=self.config.problem,
            name=self.config.name,
            config=MappingProxyType(self.variant_config()),
            custom_ops=tuple(folder / name for name in self._custom_op_files()),
            input_devices=self.config.input_devices,
        )

    def variant_config(self) -> dict[str, Any]:
        """Give the parsed ``0/config.json``; empty where there is none."""
        name = f"{VARIANT}/{CONFIG}"
        data = self._optional(name, self._limits.json_bytes)
        return {} if data is None else parse_object(data, f"{self.path}: {name}")

    def has_custom_ops(self) -> bool:
        """Whether there is anything in ``0/ops``: native code that a framework would load."""
        return bool(self.config.custom_ops) or any(name.startswith(f"{VARIANT}/ops/") for name in self.files)

    def test_data(self) -> TestData | None:
        """Give the packaged inputs and expected outputs; None where there are none."""
        name = self.test_data_file
        return None if name is None else _DECODERS[name](self._verified(name), f"{self.path}: {name}")

    @property
    def test_data_file(self) -> str | None:
        """The name of the file with the test data; ours, if the original's is there too."""
        return next((name for name in _DECODERS if name in self.files), None)

    def verify(self) -> None:
        """Compare every file with the manifest, whatever was verified before.

        Raises
        ------
        PackageIntegrityError
            At the first difference.
        """
        with self._opened() as container:
            for name in self.files:
                self._check_hash(name, container.digest(name))

    def unpack(self, folder: Path) -> None:
        """Write every file into `folder`, verified on the way.

        Raises
        ------
        PackageIntegrityError
            If a file is not what the manifest says.
        OSError
            If it cannot be written, or is there already.
        """
        with self._opened() as container:
            for name in self.files:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    digest = container.copy(name, file)
                self._check_hash(name, digest)

    def close(self) -> None:
        """Close the file; what `folder` gave stays, and who reads on opens it again."""
        self._closed = True
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _opened(self) -> Iterator[Container]:
        if not self._closed:
            yield self._container
            return
        with closing(open_container(self.path, self._limits)) as container:
            if container.stamp != self._container.stamp:
                raise changed(self.path)
            yield container

    # -- what describes it

    def _optional(self, name: str, limit: int) -> bytes | None:
        return self.read(name, limit) if name in self.files else None

    def _read_manifest(self) -> Manifest | None:
        if self._manifest_bytes is None:
            return None
        manifest = Manifest.from_bytes(self._manifest_bytes, f"{self.path}: {MANIFEST}")
        there, listed = set(self.files) - {MANIFEST}, set(manifest.files)
        for names, expected, got, remedy in (
            (listed - there, "the file that the manifest lists", "no such file", "fetch the package again"),
            (there - listed, "only files that the manifest lists", "one more", "remove it, or package the model again"),
        ):
            if names:
                raise PackageIntegrityError(f"{self.path}: {min(names)}", expected, got, remedy)
        return manifest

    def _custom_op_files(self) -> list[str]:
        for name in self.config.custom_ops:
            if f"{VARIANT}/ops/{name}" not in self.files:
                raise PackageFormatError(f"has no {VARIANT}/ops/{name}, which its config lists", at=str(self.path))
        return [f"ops/{name}" for name in self.config.custom_ops]

    def _verified(self, name: str) -> bytes:
        data = self.read(name, self._limits.test_data_bytes)
        self._check_hash(name, sha256(data).hexdigest())
        return data

    def _check_hash(self, name: str, digest: str) -> None:
        if self.manifest is not None and name != MANIFEST and digest != self.manifest.files[name]:
            raise PackageIntegrityError(
                f"{self.path}: {name}", f"sha256 {self.manifest.files[name]}", digest, "fetch the package again"
            )

    # -- its files

    def _verified_in_place(self) -> Path:
        cache = Cache(self._cache_dir or default_root())
        if self.manifest is not None and cache.key_of(self.path, self._container.stamp) is None:
            self.verify()
            cache.remember(self.path, self._container.stamp, "in place", self._container.newest_ns)
        return self.path

    def _unpacked(self) -> Path:
        cache = Cache(self._cache_dir or default_root())
        key = cache.key_of(self.path, self._container.stamp)
        content = cache.content(key) if key else None
        if content is not None:
            return content
        try:
            content = self._unpack_into(cache)
        except OSError as error:
            if self._cache_dir is not None:
                remedy = "make room, or choose another cache_dir"
                raise PackageError(f"the cache cannot be written: {error}", str(self._cache_dir), remedy) from error
            _logger.warning(
                "%s is unpacked for this model alone: the cache cannot be written: %s", self.path, str(error)
            )
            return self._unpacked_privately()
        return content

    def _unpack_into(self, cache: Cache) -> Path:
        key = self._content_key()
        content = cache.content(key)
        if content is None:
            content = cache.add(key, self.unpack)
        else:
            self.verify()  # The archive claims content that is there already: believe it only when it is so.
        cache.remember(self.path, self._container.stamp, key, self._container.newest_ns)
        return content

    def _unpacked_privately(self) -> Path:
        try:
            folder = private_folder(self)
            self.unpack(folder)
        except OSError as error:
            remedy = f"make room, or let {CACHE_VARIABLE} name a folder that has some"
            raise PackageError(f"cannot be unpacked: {error}", at=str(self.path), remedy=remedy) from error
        return folder

    def _content_key(self) -> str:
        if self._manifest_bytes is not None:
            return sha256(self._manifest_bytes).hexdigest()
        return f"archive-{archive_digest(self.path, self._container.stamp)}"


def _local_path(source: str | os.PathLike[str]) -> Path:
    text: object = os.fspath(source)
    if not isinstance(text, str) or "\0" in text or not text:
        raise PackageNotFoundError("the place of a package is a path or a URL", at=repr(text))
    path = Path(_path_of_url(text) if "://" in text else text)
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise PackageNotFoundError("there is no package", at=str(path), remedy="check the path") from error


def _path_of_url(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    try:
        scheme, host, path, _, _ = urlsplit(url)
    except ValueError as error:
        raise PackageNotFoundError(f"is no URL: {error}", at=repr(url)) from error
    if scheme in ("http", "https", "grpc", "grpcs"):
        raise PackageError(f"{scheme}:// names a server, not a package", at=url, remedy="download the package first")
    if scheme not in ("file", ""):
        raise PackageError(f"packages are not read from {scheme}://", at=url, remedy="download the package first")
    if scheme and host not in ("", "localhost"):
        raise PackageError(f"{shown(host)} is another machine", at=url, remedy="write it like file:///folder/file")
    return unquote(path) if scheme else url
