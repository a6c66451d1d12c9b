"""From a package elsewhere to a folder in the cache, once for all who want it at the same time."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from neuropod_core._cache import Cache
from neuropod_core._containers import Container, Folder
from neuropod_core._remote._containers import RemoteContainer
from neuropod_core.limits import Limits
from neuropod_core.sources import OnTransfer, Source

__all__ = ["Fetched", "Fetching", "fetched_before"]

_logger = logging.getLogger("neuropod")


class Fetched(Folder):
    """A package that came from elsewhere, verified, in the cache.

    `owners` are what keeps it there.
    """

    lasts = True

    def __init__(self, path: Path, limits: Limits, place: str, owners: list[object]) -> None:
        super().__init__(path, limits, place)
        self.owners = owners


def fetched_before(source: Source, cache: Cache, limits: Limits) -> Fetched | None:
    """Find what a pin names in the cache; nobody else is asked."""
    key = cache.pinned(source.sha256) if source.sha256 else None
    content, owner = _kept(cache, key)
    return None if content is None else Fetched(content, limits, source.place, [owner])


@dataclass(frozen=True)
class Fetching:
    """Brings one package into the cache.

    Parameters
    ----------
    source, container
        Where it lies, and what was found there.
    manifest
        Its manifest, as bytes; None if it has none.
    cache, limits, report
        Where it goes; what it may ask; who is told how far it is.
    """

    source: Source
    container: RemoteContainer
    manifest: bytes | None
    cache: Cache
    limits: Limits
    report: OnTransfer | None

    def fetched(self, install: Callable[[Container], tuple[Path, object]]) -> Fetched:
        """Find it in the cache, or fetch it; `install` unpacks it there, and gives the folder and its owner."""
        known = self._known()
        if known is not None:
            return known
        with self._place() as place:  # Another may have fetched it while this one waited.
            return self._known() or self._received(place, install)

    def _received(self, place: Path, install: Callable[[Container], tuple[Path, object]]) -> Fetched:
        with self.container.fetched(place, self.limits, self.source.sha256, self.report) as (local, digest):
            content, owner = install(local)
        if content.parent.parent == self.cache.packages:
            key = content.parent.name
            if digest:
                self.cache.pin(digest, key)
            if self.container.stamp:
                self.cache.remember(self.source.url, self.container.stamp, key, 0)
        return Fetched(content, self.limits, self.source.place, [owner])

    def _known(self) -> Fetched | None:
        """Find the content that the pin or the manifest names, or that came from this very state before."""
        if self.source.sha256:
            return fetched_before(self.source, self.cache, self.limits)
        if self.manifest is not None:
            key: str | None = sha256(self.manifest).hexdigest()
        else:
            stamp = self.container.stamp
            key = self.cache.key_of(self.source.url, stamp) if stamp else None
        content, owner = _kept(self.cache, key)
        return None if content is None else Fetched(content, self.limits, self.source.place, [owner])

    @contextmanager
    def _place(self) -> Iterator[Path]:
        with ExitStack() as held:
            place = self._place_in_cache(held)
            if place is None:
                folder = tempfile.TemporaryDirectory(prefix="neuropod-", ignore_cleanup_errors=True)
                place = Path(held.enter_context(folder), "download")
            yield place

    def _place_in_cache(self, held: ExitStack) -> Path | None:
        """Give a place in the cache; None if it cannot be written, and that error holds nobody's frame but this."""
        try:
            return held.enter_context(self.cache.download(self.source.url))
        except OSError as error:
            what = "%s is fetched for this model alone: the cache cannot be written: %s"
            _logger.warning(what, self.source.place, str(error))
            return None


class _Owner:
    """Keeps a hold on the cache."""


def _kept(cache: Cache, key: str | None) -> tuple[Path | None, object]:
    owner = _Owner()
    if key is None:
        return None, owner
    cache.hold(key, owner)
    return cache.content(key), owner
