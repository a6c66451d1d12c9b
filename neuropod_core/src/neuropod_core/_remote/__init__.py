"""Packages that lie elsewhere: described from a few ranges of bytes, fetched whole before they are run.

``package+https`` is served by the standard library alone; every other URL by fsspec, which the extra ``[remote-files]``
brings, and by the driver that fsspec names.
"""

from __future__ import annotations

from pathlib import Path

from neuropod_core._containers import Container, Folder, archive_digest, open_container
from neuropod_core._remote._containers import RemoteArchive, RemoteContainer, RemoteFolder, RemoteZip
from neuropod_core._remote._fetching import Fetched, Fetching, fetched_before
from neuropod_core._remote._files import RemoteFile
from neuropod_core.errors import PackageError, PackageIntegrityError
from neuropod_core.limits import Limits
from neuropod_core.sources import HTTP_SCHEMES, Source

__all__ = ["Fetched", "Fetching", "RemoteContainer", "fetched_before", "kind_of", "open_here", "open_remote"]


def open_here(path: Path, pin: str, limits: Limits) -> Container:
    """Open a package on this machine, whose sha256 must be `pin` where there is one."""
    container = open_container(path, limits)
    try:
        if pin:
            _check_pin(container, pin)
    except BaseException:
        container.close()
        raise
    return container


def _check_pin(container: Container, pin: str) -> None:
    if isinstance(container, Folder):
        raise PackageError("is a folder, which has no hash of its own", container.place, "pin an archive, or nothing")
    digest = archive_digest(container.path, container.stamp)
    if digest != pin:
        remedy = "it is another archive, or damaged: ask who gave you the hash"
        raise PackageIntegrityError(container.place, f"sha256 {pin}", digest, remedy)


def kind_of(container: Container) -> str:
    """Tell whether a package is a ``folder`` or a ``zip``, wherever it lies; what was fetched as one lies unpacked."""
    in_place = isinstance(container, Folder) and not isinstance(container, Fetched)
    return "folder" if in_place or isinstance(container, RemoteFolder) else "zip"


def open_remote(source: Source, limits: Limits) -> RemoteContainer:
    """Find what lies behind a URL.

    Raises
    ------
    PackageNotFoundError
        If there is nothing.
    SourceError
        If it cannot be reached, or nothing here can read such URLs.
    """
    found = _found(source, limits)
    if isinstance(found, RemoteFolder):
        if source.sha256:
            raise PackageError("is a folder, which has no hash of its own", source.place, "pin an archive, or nothing")
        return found
    return RemoteArchive(found, limits) if found.ranged else RemoteZip(found)


def _found(source: Source, limits: Limits) -> RemoteFile | RemoteFolder:
    if source.url.lower().startswith(HTTP_SCHEMES):
        from neuropod_core._remote._http import HttpFile

        return HttpFile(source.url.partition("+")[2], source.place, limits)
    from neuropod_core._remote._objects import open_object

    return open_object(source, limits)
