"""The extension modules in the ``ops`` folder of packages: importable for their code, loaded once per process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import partial
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

from neuropod_core.custom_ops import loaded_once
from neuropod_core.errors import ModelLoadError

__all__ = ["Ops"]


class Ops:
    """The extension modules of one package by name: ``ops/scale.cpython-311.so`` is the module ``scale``.

    Loaded when first imported. A library of the same content is loaded once per process, whichever package brings it:
    most extension modules do not survive being loaded twice.

    Raises
    ------
    ModelLoadError
        If the environment has a module of such a name: which of the two was meant cannot be known.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = {path.name.partition(".")[0]: path for path in files}
        for name, path in self._files.items():
            if name in sys.modules or importlib.util.find_spec(name) is not None:
                what = f"the custom op {name!r} is importable without the package"
                raise ModelLoadError(what, at=str(path), remedy="uninstall or rename one of the two")

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def module(self, name: str) -> ModuleType:
        """Give the module `name`, loaded."""
        return loaded_once(f"python module {name}", self._files[name], partial(_load, name))


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
    if spec is None:
        raise ImportError(f"no extension module can be loaded from {path}", name=name)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # type: ignore[union-attr]  # it is the loader above
        return module
    finally:
        sys.modules.pop(name, None)  # Where modules with single-phase initialisation put themselves.
