"""Write packages of Python code."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypedDict, cast

from neuropod_core.errors import PackagingError, shown
from neuropod_core.packaging import PackageArguments, new_package
from neuropod_python.locking import locks

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CodePath", "DataPath", "create_python_neuropod", "create_pytorch_neuropod"]

_SKIPPED = frozenset({"__pycache__", ".git", ".hg", ".svn"})
_SKIPPED_SUFFIXES = (".pyc", ".pyo")


class DataPath(TypedDict):
    """A file or folder that the entry point finds as `packaged_name` in its data path."""

    path: str | os.PathLike[str]
    packaged_name: str


class CodePath(TypedDict):
    """Folders below `python_root`, the folder from which they are imported; ``""`` or ``"."`` is all of it.

    A single module is named by its file, ``"entry.py"``.
    """

    python_root: str | os.PathLike[str]
    dirs_to_package: Sequence[str]


def create_python_neuropod(
    *,
    neuropod_path: str | os.PathLike[str],
    model_name: str,
    entrypoint: str | Callable[..., Any],
    entrypoint_package: str | None = None,
    code_path_spec: Sequence[CodePath] = (),
    data_paths: Sequence[DataPath] = (),
    requirements: str | None = None,
    hashes: bool | None = None,
    thread_safe: bool | None = None,
    stateful: bool | None = None,
    writes_inputs: bool | None = None,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Package Python code as a neuropod.

    Parameters
    ----------
    neuropod_path
        Where the package goes; nothing may be there.
    model_name
        What it is called.
    entrypoint
        A function that gets the path of the packaged data, and the device where it has a parameter `device`. It gives
        a callable that takes the inputs by name and returns a dictionary of arrays. Named by its name; or the function
        itself, and then its module (or the outermost package around it) is packaged without being named.
    entrypoint_package
        The dotted name of its module: ``mymodel.entry``.
    code_path_spec
        The code to package. Links are followed; byte code and folders of version control are left out.
    data_paths
        The data to package.
    requirements
        What the code needs, in the form of ``requirements.txt``, without options and addresses. Recorded with the exact
        version of every distribution that it brings along, and compared with what is installed when it is loaded.
    hashes
        Whether ``pylock.toml`` (PEP 751), with the hash of every file of those versions, is written beside
        ``requirements.lock``: always, or it is an error; never, and no index is asked; if not stated, where uv
        finds them.
    thread_safe
        Whether the callable may be called in several threads at once. Calls wait for each other if not stated.
    stateful
        Whether a call changes what later calls give. Not so if not stated.
    writes_inputs
        False promises that the callable neither writes into its inputs nor keeps them: they need no copy then.
    arguments
        What every packager takes: see `neuropod_core.packaging.PackageArguments`.

    Raises
    ------
    PackagingError
        If an argument is wrong, or the package does not load or gives other results; nothing is left behind.

    Examples
    --------
    >>> create_python_neuropod(
    ...     neuropod_path="digits.neuropod",
    ...     model_name="digits",
    ...     entrypoint_package="digits.entry",
    ...     entrypoint="load_model",
    ...     code_path_spec=[{"python_root": ".", "dirs_to_package": ["digits"]}],
    ...     data_paths=[{"path": "weights.npz", "packaged_name": "weights.npz"}],
    ...     requirements="numpy",
    ...     input_spec={"image": "uint8[N, 8, 8]"},
    ...     output_spec={"scores": "float32[N, 10]"},
    ... )  # doctest: +SKIP
    """
    module, function, code = _entry(entrypoint, entrypoint_package, code_path_spec)
    declared = {"thread_safe": thread_safe, "stateful": stateful, "writes_inputs": writes_inputs}
    config: dict[str, str | bool] = {"entrypoint": function, "entrypoint_package": module}
    config |= {name: value for name, value in declared.items() if value is not None}
    data = _data_files(data_paths)
    lock = {} if requirements is None else locks(requirements, hashes=hashes)
    with new_package("python", neuropod_path=neuropod_path, model_name=model_name, **arguments) as new:
        for folder, files in (("code", code), ("data", data)):
            (new.folder / folder).mkdir()
            for name, source in files.items():
                _copy(source, new.folder / folder / name)
        for name, text in lock.items():
            (new.folder / name).write_text(text, "utf-8")
        (new.folder / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True), "utf-8")


create_pytorch_neuropod = create_python_neuropod
"""The same: a package of Python code that uses PyTorch."""


# -- which code -------------------------------------------------------------------------------------------------------


def _entry(
    entrypoint: str | Callable[..., Any], package: str | None, code_path_spec: Sequence[CodePath]
) -> tuple[str, str, dict[str, Path]]:
    """Give the module, the function and the files of the code."""
    if isinstance(entrypoint, str):
        if not package or not code_path_spec:
            raise PackagingError("an entry point that is named needs entrypoint_package and code_path_spec")
        return package, entrypoint, _code_files(code_path_spec)
    if package is not None:
        raise PackagingError("pass entrypoint_package, or the function itself, not both")
    module = _module_of(entrypoint)
    return module, entrypoint.__name__, _code_files(code_path_spec or [_code_around(module)])


def _module_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    found = getattr(sys.modules.get(module or ""), getattr(function, "__name__", ""), None)
    if not isinstance(function, FunctionType) or found is not function or module in (None, "__main__"):
        what = f"{shown(function)} is no function that a module of its own offers by name"
        raise PackagingError(what, remedy="define it in a module that can be imported, or name it")
    return cast("str", module)


def _code_around(module: str) -> CodePath:
    """Take the outermost package around a module, or the file of a module that has none."""
    file = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if file is None:
        raise PackagingError(f"the outermost package of {module} is no single folder", remedy="pass code_path_spec")
    path = Path(file).absolute()
    path = path.parent if path.name == "__init__.py" else path
    return {"python_root": path.parent, "dirs_to_package": [path.name]}


def _code_files(code_path_spec: Sequence[CodePath]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for number, spec in enumerate(code_path_spec):
        at = f"code_path_spec[{number}]"
        root, names = (_field(spec, key, at) for key in ("python_root", "dirs_to_package"))
        if isinstance(names, str):
            raise PackagingError(f"dirs_to_package is a list of folders, not {shown(names)}", at=at)
        for name in names:
            _merge(files, _tree(Path(root), _inside(name, at)), at)
    return files


def _data_files(data_paths: Sequence[DataPath]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for number, spec in enumerate(data_paths):
        at = f"data_paths[{number}]"
        path, name = Path(_field(spec, "path", at)).resolve(), _inside(_field(spec, "packaged_name", at), at)
        if not name:
            raise PackagingError("packaged_name is empty", at=at)
        found = {name + file[len(path.name) :]: source for file, source in _tree(path.parent, path.name).items()}
        _merge(files, found, at)
    return files


def _field(spec: Mapping[str, Any], key: str, at: str) -> Any:
    if not isinstance(cast("object", spec), Mapping) or key not in spec:
        raise PackagingError(f"{shown(spec)} has no {key!r}", at=at)
    return spec[key]


def _inside(name: object, at: str) -> str:
    """Give a relative path in its one form, or refuse what leads out of its folder."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath("/")
    if path.is_absolute() or ".." in path.parts or "\\" in str(path) or "\0" in str(path):
        raise PackagingError(f"{shown(name)} is no relative path inside its folder", at=at)
    return "" if str(path) == "." else str(path)


def _merge(files: dict[str, Path], found: dict[str, Path], at: str) -> None:
    for name, source in found.items():
        if files.setdefault(name, source).absolute() != source.absolute():
            raise PackagingError(f"{name!r} is there already, from {files[name]}", at=at)


# -- which files ------------------------------------------------------------------------------------------------------


def _tree(root: Path, name: str) -> dict[str, Path]:
    """List a file, or the files below a folder, each by its path from `root`."""
    top = root / name
    if not top.exists():
        raise PackagingError("there is no such file or folder", at=str(top))
    return {path.relative_to(root).as_posix(): path for path in _walk(top, ())}


def _walk(path: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    if not path.is_dir():
        yield _regular(path)
        return
    real = path.resolve()
    if real in above:
        raise PackagingError("a link leads back to a folder around it", at=str(path))
    for child in sorted(path.iterdir()):
        if child.name not in _SKIPPED and not child.name.endswith(_SKIPPED_SUFFIXES):
            yield from _walk(child, (*above, real))


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise PackagingError("is no regular file (a link without a target?)", at=str(path))
    return path


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise PackagingError(f"cannot be copied: {error.strerror}", at=str(source)) from error
