"""Packages for tests: written as they are told, without running what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from neuropod_core.config import Config, Manifest
from neuropod_core.problem import Problem

__all__ = ["fake_package"]


def fake_package(
    path: Path, platform: str, problem: Problem, files: Mapping[str, bytes] | None = None, *, name: str = "fake"
) -> Path:
    """Write a package as a folder, with whatever content a test wants its backend to see.

    A packager proves what it writes by loading it; this does not, so it can write what no packager would: an artefact
    that is damaged, missing or of another kind.

    Parameters
    ----------
    path
        Where the folder goes; nothing may be there.
    platform
        What the declaration says.
    problem
        What the declaration says.
    files
        Path inside the variant -> content: ``{"data/model.json": b"{}"}``.
    name
        What the declaration says.

    Returns
    -------
    `path`.

    Raises
    ------
    FileExistsError
        If something is there.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> folder = fake_package(Path(mkdtemp(), "m"), "echo", Problem.of({}, {}), {"data/model.json": b"not JSON"})
    >>> sorted(file.name for file in folder.rglob("*.json"))
    ['config.json', 'manifest.json', 'model.json']
    """
    contents = {f"0/{inside}": content for inside, content in (files or {}).items()}
    contents["config.json"] = Config(name, platform, problem).to_bytes()
    hashes = {inside: sha256(content).hexdigest() for inside, content in contents.items()}
    path.mkdir()
    for inside, content in {**contents, "manifest.json": Manifest(hashes).to_bytes()}.items():
        (path / inside).parent.mkdir(parents=True, exist_ok=True)
        (path / inside).write_bytes(content)
    return path
