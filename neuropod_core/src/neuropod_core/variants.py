"""One implementation inside a package, as a backend sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neuropod_core.errors import PackageFormatError, shown
from neuropod_core.problem import Problem

__all__ = ["Variant"]


@dataclass(frozen=True)
class Variant:
    """One implementation: verified files on disk, and the problem that they solve.

    Parameters
    ----------
    platform
        The artefact kind.
    folder
        The folder of the variant (``0/`` of the package), absolute. Its files are read-only: never write there.
    problem
        What it solves.
    name
        The model's name.
    config
        The variant's own ``config.json``, parsed; empty where there is none.
    custom_ops
        Libraries of custom operators, absolute paths, in the order in which they are to be loaded.
    input_devices
        Input name -> ``"GPU"`` or ``"CPU"``, for the inputs that the package places.
    """

    platform: str
    folder: Path
    problem: Problem
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    custom_ops: tuple[Path, ...] = ()
    input_devices: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def artefact(self, relative_path: str) -> Path:
        """Give the absolute path of a file or folder of the variant, ``data/model.pt``.

        Raises
        ------
        PackageFormatError
            If it is not there, or leads out of the variant: it may come from a file of the package.
        """
        path, where = self.folder / relative_path, f"{self.folder.name}/{relative_path}"
        if "\0" in relative_path or ".." in Path(relative_path).parts or not path.is_relative_to(self.folder):
            raise PackageFormatError(f"{shown(where)} leads out of the variant", at=str(self.folder.parent))
        if not path.exists():
            raise PackageFormatError(f"the {self.platform} package has no {where}", at=str(self.folder.parent))
        return path
