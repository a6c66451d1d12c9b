"""The code of a package, imported under a name of its own and seen by itself alone.

Every module of a package lives in `sys.modules` under a random top-level name, ``neuropod_code_ab12.mymodel.layers``,
where nothing else looks. That settles relative imports, `inspect`, dataclasses and pickles that the package writes for
itself. Absolute imports (``from mymodel.layers import Net``) are settled by who asks, not by when or in which thread:
the modules of a package have builtins of their own, whose ``__import__`` looks into the package first and then into the
environment. Neither `sys.path` nor a name of the application is touched.

Importing by name from a library has no such sign of who asks. Two doors are known: inside a package, ``importlib`` and
``pickle`` are façades whose functions look into the package first. What other libraries import on behalf of a package
(`torch.load`, ``joblib.load``, ``importlib.resources`` by name) finds the package's modules while it is loaded, in the
loading thread, under names that the environment does not have; see `PackageCode.guests`.
"""

from __future__ import annotations

import builtins
import importlib
import io
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from neuropod_python.ops import Ops

__all__ = ["PackageCode"]

_loads = 0
_loads_lock = threading.Lock()


class PackageCode:
    """The modules of one package, from opening to `close`.

    Parameters
    ----------
    root
        The folder that absolute imports of the package start from.
    ops
        Extension modules that the package brings along.

    Examples
    --------
    ::

        code = PackageCode(Path("0/code"))
        entry = code.module("mymodel.entry")  # which may say: from mymodel.layers import Net
        code.close()
    """

    def __init__(self, root: Path, ops: Ops | None = None) -> None:
        self.root = root
        self.name = f"neuropod_code_{uuid.uuid4().hex}"
        self._ops = ops or Ops(())
        self._located: dict[str, Path | None] = {}
        self._facades: dict[str, ModuleType] = {"importlib": _importlib_for(self), "pickle": _pickle_for(self)}
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}
        _finder.add(self)

    def owns(self, name: str) -> bool:
        """Tell whether the package has a module of this dotted name."""
        return name in self._ops or (name != "" and self._locate(name) is not None)

    def own_name(self, name: str) -> str:
        """Give the name under which `sys.modules` holds the package's module `name`."""
        return f"{self.name}.{name}"

    def module(self, name: str) -> ModuleType:
        """Import a module of the package by its dotted name.

        Raises
        ------
        ModuleNotFoundError
            If the package does not have it.
        """
        return importlib.import_module(self.own_name(name))

    def spec(self, name: str) -> ModuleSpec | None:
        """Say how the package's module `name` is loaded; the empty name is that of the root itself."""
        full_name = self.own_name(name) if name else self.name
        if name in self._ops:
            return ModuleSpec(full_name, _Existing(self._ops.module(name)))
        path = self._locate(name)
        if path is None:
            return None
        if path.is_dir():
            folder = ModuleSpec(full_name, _Folder(self, name), is_package=True)
            folder.submodule_search_locations = [str(path)]
            return folder
        inside = [str(path.parent)] if path.name == "__init__.py" else None
        loader = (_Source if path.suffix == ".py" else ExtensionFileLoader)(full_name, str(path))
        if isinstance(loader, _Source):
            loader.builtins = self.builtins
        return spec_from_file_location(full_name, path, loader=loader, submodule_search_locations=inside)

    @contextmanager
    def guests(self) -> Iterator[None]:
        """Let libraries find the package's modules under their plain names, in this thread, until the block ends.

        Only names that the environment does not have. What stands for them in `sys.modules` is hollow for all other
        threads, and leaves when no package is being loaded any more.
        """
        global _loads  # noqa: PLW0603 - guarded by the lock
        with _loads_lock:
            _loads += 1
        _loading.codes.append(self)
        try:
            yield
        finally:
            _loading.codes.pop()
            with _loads_lock:
                _loads -= 1
                if not _loads:
                    _dismiss_guests()

    def close(self) -> None:
        """Forget the modules; what nobody else holds is freed."""
        _finder.open.pop(self.name, None)
        for name in [name for name in list(sys.modules) if name.partition(".")[0] == self.name]:
            sys.modules.pop(name, None)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Do what an import statement of the package's code asks for."""
        if level or not self.owns(name):
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            return module if level else self._facades.get(getattr(module, "__name__", ""), module)
        module = builtins.__import__(self.own_name(name), None, None, fromlist or (), 0)
        return module if fromlist else sys.modules[self.own_name(name.partition(".")[0])]

    def _locate(self, name: str) -> Path | None:
        if name not in self._located:
            self._located[name] = _module_file(self.root, name)
        return self._located[name]


def _module_file(root: Path, name: str) -> Path | None:
    """Find the file of a module, or the folder of a package without ``__init__.py``, as Python's own finder would."""
    parts = name.split(".") if name else []
    if not all(part.isidentifier() for part in parts):
        return None
    base = root.joinpath(*parts)
    files = [
        base / "__init__.py",
        *(base.parent / f"{base.name}{end}" for end in (*EXTENSION_SUFFIXES, ".py") if parts),
    ]
    return next((path for path in files if path.is_file()), base if base.is_dir() else None)


class _Source(SourceFileLoader):
    """Runs a module's source with the package's builtins; neither reads nor writes byte code."""

    builtins: dict[str, Any]

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self.builtins
        super().exec_module(module)


class _Folder(Loader):
    """Makes the module of a folder without ``__init__.py``: what it lacks, the environment's namesake may have."""

    def __init__(self, code: PackageCode, name: str) -> None:
        self._code, self._name = code, name

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = self._from_environment

    def _from_environment(self, attribute: str) -> ModuleType:
        name = f"{self._name}.{attribute}"
        if self._name and not attribute.startswith("__") and not self._code.owns(name):
            with suppress(ImportError):
                return importlib.import_module(name)
        raise AttributeError(f"module {self._name!r} has no attribute {attribute!r}")


class _Existing(Loader):
    """Gives a module that is there already, and leaves it as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        del spec
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Guest(ModuleType):
    """Stands in `sys.modules` for the modules of one plain name; each loading thread sees that of its own package."""

    def __getattribute__(self, attribute: str) -> Any:
        code = _loading.innermost()
        name = super().__getattribute__("__name__")
        if code is None or not code.owns(name):
            return super().__getattribute__(attribute)
        return getattr(code.module(name), attribute)


class _GuestLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Guest(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""


class _Finder(MetaPathFinder):
    """Finds the modules of open packages, and guests where the thread is loading a package.

    It comes first on `sys.meta_path`, for behind `PathFinder` the files below a guest would be found there. It stays:
    a finder that leaves the list makes an import that is under way in another thread skip the next one.
    """

    def __init__(self) -> None:
        self.open: dict[str, PackageCode] = {}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del path, target
        top, _, name = fullname.partition(".")
        code = self.open.get(top)
        if code is not None:
            return code.spec(name)
        code = _loading.innermost()
        return None if code is None else _guest_spec(code, fullname)

    def add(self, code: PackageCode) -> None:
        self.open[code.name] = code
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)


class _Loading(threading.local):
    """The packages that this thread is loading, the innermost last: an entry point may load another."""

    def __init__(self) -> None:
        self.codes: list[PackageCode] = []

    def innermost(self) -> PackageCode | None:
        return self.codes[-1] if self.codes else None


_finder = _Finder()
_loading = _Loading()


def _guest_spec(code: PackageCode, name: str) -> ModuleSpec | None:
    if not code.owns(name) or _environment_has(name):
        return None
    is_package = hasattr(code.module(name), "__path__")
    return ModuleSpec(name, _GuestLoader(), is_package=is_package)


def _environment_has(name: str) -> bool:
    """Tell whether a module of the environment has this name, or may have it: packages are not mixed."""
    parent = name.rpartition(".")[0]
    if parent:
        return not isinstance(sys.modules.get(parent), _Guest)
    others = [finder for finder in sys.meta_path if finder is not _finder and hasattr(finder, "find_spec")]
    return any(finder.find_spec(name, None) is not None for finder in others)


def _dismiss_guests() -> None:
    for name, module in list(sys.modules.items()):
        if type(module) is _Guest:
            sys.modules.pop(name, None)


def _facade(module: ModuleType, **functions: Any) -> ModuleType:
    """Make a module that is `module` but for `functions`."""
    facade = ModuleType(module.__name__, module.__doc__)
    vars(facade).update(functions, __getattr__=lambda name: getattr(module, name))
    return facade


def _importlib_for(code: PackageCode) -> ModuleType:
    def import_module(name: str, package: str | None = None) -> ModuleType:
        return importlib.import_module(code.own_name(name) if code.owns(name) else name, package)

    return _facade(importlib, import_module=import_module)


def _pickle_for(code: PackageCode) -> ModuleType:
    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            found = code.own_name(module_name) if code.owns(module_name) else module_name
            return super().find_class(found, global_name)

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    def loads(data: Any, /, **options: Any) -> Any:
        return Unpickler(io.BytesIO(data), **options).load()

    functions: dict[str, Callable[..., Any]] = {"Unpickler": Unpickler, "load": load, "loads": loads}
    return _facade(pickle, **functions)
