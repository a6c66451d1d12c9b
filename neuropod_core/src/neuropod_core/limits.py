"""How much a package may ask of its reader."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on what is read from a package, so that no file can exhaust the machine that opens it.

    Parameters
    ----------
    files
        Files in a package.
    path_characters, path_depth
        Length of a file's path inside the package, and folders in it.
    json_bytes
        Size of ``config.json``, of the one in ``0/``, and of the header of test data.
    manifest_bytes
        Size of ``manifest.json``.
    test_data_bytes
        Size of packaged test data, which is read into memory.
    total_bytes
        Size of all files together, unpacked.
    expansion, expansion_free_bytes
        An archive unpacks to at most `expansion` times its size, or to `expansion_free_bytes`, if that is more.
    unannounced_bytes
        Size of an archive behind HTTP whose server does not say how long it is.
    silence_seconds
        How long a server may send nothing, or next to nothing, before a connection counts as lost.
    """

    files: int = 50_000
    path_characters: int = 1024
    path_depth: int = 64
    json_bytes: int = 4 * _MIB
    manifest_bytes: int = 16 * _MIB
    test_data_bytes: int = 256 * _MIB
    total_bytes: int = 1 << 40
    expansion: int = 100
    expansion_free_bytes: int = 256 * _MIB
    unannounced_bytes: int = 1 << 30
    silence_seconds: float = 30.0
