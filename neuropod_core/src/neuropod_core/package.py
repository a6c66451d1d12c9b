"""A package on disk: opened, bounded and verified before anybody believes it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from neuropod_core import test_data
from neuropod_core._cache import CACHE_VARIABLE, Cache, default_root, private_folder
from neuropod_core._containers import Container, Folder, archive_digest, changed, open_container
from neuropod_core._json import parse_object
from neuropod_core._remote import Fetched, Fetching, RemoteContainer, fetched_before, kind_of, open_here, open_remote
from neuropod_core.config import Config, Manifest
from neuropod_core.errors import PackageError, PackageFormatError, PackageIntegrityError
from neuropod_core.limits import Limits
from neuropod_core.sources import OnTransfer, Source
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
    Behind a URL, only what describes it is read, until the files are asked for: then it is fetched into the cache.

    Attributes
    ----------
    place
        What errors call it: the absolute path, or the URL without credentials and query.
    config
        Its declaration.
    manifest
        Its hashes; None if it has none.
    files
        Relative path -> size in bytes.
    kind
        ``folder`` or ``zip``.
    """

    def __init__(
        self,
        container: Container,
        limits: Limits,
        cache_dir: Path | None,
        source: Source | None = None,
        on_transfer: OnTransfer | None = None,
    ) -> None:
        self.place, self.kind = container.place, kind_of(container)
        self.files: Mapping[str, int] = MappingProxyType(dict(container.files))
        self._container, self._limits, self._cache_dir = container, limits, cache_dir
        self._source, self._on_transfer = source or Source(container.path), on_transfer
        self._closed = False
        self._manifest_bytes = self._optional(MANIFEST, limits.manifest_bytes)
        self._config_bytes = self.read(CONFIG, limits.json_bytes)
        self.config = Config.from_bytes(self._config_bytes, f"{self.place}: {CONFIG}")
        self.manifest = self._read_manifest()
        self._folder: Path | None = None

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        cache_dir: str | Path | None = None,
        on_transfer: OnTransfer | None = None,
    ) -> Package:
        """Open a folder or a zip file, here or behind a URL.

        Parameters
        ----------
        source
            Where it lies: a path; a ``file://`` URL; ``package+https://...``; or any URL that fsspec reads. A URL, or a
            path given as `str`, may end in ``#sha256=<hex>``, the hash that the archive must have.
        limits
            Bounds on what is read.
        cache_dir
            Where archives are unpacked; None for ``NEUROPOD_CACHE_DIR`` or the user's cache folder.
        on_transfer
            Told how far a transfer is.

        Raises
        ------
        PackageNotFoundError
            If there is nothing.
        SourceError
            If it lies behind a URL that cannot be read.
        PackageError
            If it cannot be read as a package.
        """
        where, limits = Source.parse(source), limits or Limits()
        folder = None if cache_dir is None else Path(cache_dir)
        if where.path is None:
            return cls._open_url(where, limits, folder, on_transfer)
        return cls._owning(open_here(where.path, where.sha256, limits), limits, folder, where, on_transfer)

    @classmethod
    def _owning(cls, container: Container, limits: Limits, cache_dir: Path | None, *more: Any) -> Package:
        try:
            return cls(container, limits, cache_dir, *more)
        except BaseException:
            container.close()
            raise

    @classmethod
    def _open_url(
        cls, source: Source, limits: Limits, cache_dir: Path | None, on_transfer: OnTransfer | None
    ) -> Package:
        cache = Cache(cache_dir or default_root())
        container: Container | None = fetched_before(source, cache, limits)
        if container is None:
            container = open_remote(source, limits)
            if not container.files:  # Its server gives no parts.
                install = partial(cls._installed, limits=limits, cache_dir=cache_dir)
                container = Fetching(source, container, None, cache, limits, on_transfer).fetched(install)
        return cls._owning(container, limits, cache_dir, source, on_transfer)

    @classmethod
    def _installed(cls, local: Container, limits: Limits, cache_dir: Path | None) -> tuple[Path, object]:
        """Unpack what came from elsewhere; give where it is, and what keeps it there."""
        with cls._owning(local, limits, cache_dir) as package:
            return package._unpacked(), package  # noqa: SLF001 - one of its own

    @property
    def path(self) -> Path:
        """Where it lies on this machine, absolute; behind a URL, the folder into which it is fetched for that."""
        return self.folder() if self.is_remote else self._container.path

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return self._source.path is None

    @property
    def is_here(self) -> bool:
        """Whether its files are on this machine: fetched, if it lies behind a URL."""
        return not isinstance(self._container, RemoteContainer)

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
            raise PackageFormatError(f"has no {name}", at=self.place, remedy="is it a neuropod package?")
        with self._opened() as container:
            return container.read(name, self._limits.total_bytes if limit is None else limit)

    def folder(self) -> Path:
        """Give the folder with all files, verified: the package's own, or where it was unpacked.

        A folder in the cache stays as long as the package is referenced, or the model that was loaded from it.

        Raises
        ------
        SourceError
            If it lies behind a URL and cannot be fetched.
        PackageIntegrityError
            If a file is not what the manifest says.
        PackageError
            If there is no room to unpack it.
        """
        if self._folder is None:
            self._fetch()
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
        return {} if data is None else parse_object(data, f"{self.place}: {name}")

    def has_custom_ops(self) -> bool:
        """Whether there is anything in ``0/ops``: native code that a framework would load."""
        return bool(self.config.custom_ops) or any(name.startswith(f"{VARIANT}/ops/") for name in self.files)

    def test_data(self) -> TestData | None:
        """Give the packaged inputs and expected outputs; None where there are none."""
        name = self.test_data_file
        return None if name is None else _DECODERS[name](self._verified(name), f"{self.place}: {name}")

    @property
    def test_data_file(self) -> str | None:
        """The name of the file with the test data; ours, if the original's is there too."""
        return next((name for name in _DECODERS if name in self.files), None)

    def verify(self) -> None:
        """Compare every file with the manifest, whatever was verified before; behind a URL, it is fetched for that.

        Raises
        ------
        SourceError
            If it cannot be fetched.
        PackageIntegrityError
            At the first difference.
        """
        self._fetch()
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
        self._fetch()
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
        if not self._closed or self._container.lasts:
            yield self._container
            return
        with closing(open_container(self._container.path, self._limits, self.place)) as container:
            if container.stamp != self._container.stamp:
                raise changed(self.place)
            yield container

    # -- what describes it

    def _optional(self, name: str, limit: int) -> bytes | None:
        return self.read(name, limit) if name in self.files else None

    def _read_manifest(self) -> Manifest | None:
        if self._manifest_bytes is None:
            return None
        manifest = Manifest.from_bytes(self._manifest_bytes, f"{self.place}: {MANIFEST}")
        there, listed = set(self.files) - {MANIFEST}, set(manifest.files)
        for names, expected, got, remedy in (
            (listed - there, "the file that the manifest lists", "no such file", "fetch the package again"),
            (there - listed, "only files that the manifest lists", "one more", "remove it, or package the model again"),
        ):
            if names:
                raise PackageIntegrityError(f"{self.place}: {min(names)}", expected, got, remedy)
        return manifest

    def _custom_op_files(self) -> list[str]:
        for name in self.config.custom_ops:
            if f"{VARIANT}/ops/{name}" not in self.files:
                raise PackageFormatError(f"has no {VARIANT}/ops/{name}, which its config lists", at=self.place)
        return [f"ops/{name}" for name in self.config.custom_ops]

    def _verified(self, name: str) -> bytes:
        if self._source.sha256:
            self._fetch()  # A pin speaks of the whole; until that is here, nothing is known of a part.
        data = self.read(name, self._limits.test_data_bytes)
        self._check_hash(name, sha256(data).hexdigest())
        return data

    def _check_hash(self, name: str, digest: str) -> None:
        if self.manifest is not None and name != MANIFEST and digest != self.manifest.files[name]:
            raise PackageIntegrityError(
                f"{self.place}: {name}", f"sha256 {self.manifest.files[name]}", digest, "fetch the package again"
            )

    # -- its files

    def _fetch(self) -> None:
        """Bring what lies elsewhere into the cache; from then on it is read there."""
        container = self._container
        if not isinstance(container, RemoteContainer):
            return
        known = (self._manifest_bytes, self._cache, self._limits, self._on_transfer)
        install = partial(self._installed, limits=self._limits, cache_dir=self._cache_dir)
        fetched = Fetching(self._source, container, *known).fetched(install)
        same = fetched.files == container.files and fetched.read(CONFIG, self._limits.json_bytes) == self._config_bytes
        if not same or (self._manifest_bytes or b"") != b"".join(fetched.stream(MANIFEST) if self.manifest else ()):
            raise changed(self.place)
        self._container = fetched

    def _verified_in_place(self) -> Path:
        if isinstance(self._container, Fetched):
            return self._container.path
        cache, path = self._cache, self._container.path
        if self.manifest is not None and cache.key_of(str(path), self._container.stamp) is None:
            self.verify()
            cache.remember(str(path), self._container.stamp, "in place", self._container.newest_ns)
        return path

    @property
    def _cache(self) -> Cache:
        return Cache(self._cache_dir or default_root())

    def _unpacked(self) -> Path:
        cache = self._cache
        key = cache.key_of(str(self._container.path), self._container.stamp)
        if key is not None:
            cache.hold(key, self)
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
                "%s is unpacked for this model alone: the cache cannot be written: %s", self.place, str(error)
            )
            return self._unpacked_privately()
        return content

    def _unpack_into(self, cache: Cache) -> Path:
        key = self._content_key()
        cache.hold(key, self)
        content = cache.content(key)
        if content is None:
            content = cache.add(key, self.unpack)
        else:
            self.verify()  # The archive claims content that is there already: believe it only when it is so.
        cache.remember(str(self._container.path), self._container.stamp, key, self._container.newest_ns)
        return content

    def _unpacked_privately(self) -> Path:
        try:
            folder = private_folder(self)
            self.unpack(folder)
        except OSError as error:
            remedy = f"make room, or let {CACHE_VARIABLE} name a folder that has some"
            raise PackageError(f"cannot be unpacked: {error}", at=self.place, remedy=remedy) from error
        return folder

    def _content_key(self) -> str:
        if self._manifest_bytes is not None:
            return sha256(self._manifest_bytes).hexdigest()
        if isinstance(self._container, Folder):  # One that was fetched: others are used where they lie.
            digests = {name: self._container.digest(name) for name in self.files}
            return f"folder-{sha256(Manifest(digests).to_bytes()).hexdigest()}"
        return f"archive-{archive_digest(self._container.path, self._container.stamp)}"
