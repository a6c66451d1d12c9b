"""Writes packages: everything or nothing, and proves what was written by running it."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import numpy as np

from neuropod_core import test_data
from neuropod_core._comparison import compare
from neuropod_core._containers import open_container
from neuropod_core._workplaces import Workplace
from neuropod_core.backend import Array
from neuropod_core.checks import input_check
from neuropod_core.config import Config, Manifest
from neuropod_core.custom_ops import targets_of
from neuropod_core.errors import NeuropodError, PackageFormatError, PackagingError, shown
from neuropod_core.limits import Limits
from neuropod_core.loading import load_neuropod
from neuropod_core.package import CONFIG, MANIFEST, VARIANT, Package
from neuropod_core.problem import Problem, SpecLike
from neuropod_core.tensors import as_array, as_text, describe, dtype_of
from neuropod_core.test_data import TestData
from neuropod_core.trust import Trust

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NewPackage", "PackageArguments", "ZipCompression", "new_package", "repack"]

ZipCompression = Literal["deflated", "stored"] | int
"""How files lie in an archive; the constants of `zipfile` are taken too."""

_COMPRESSIONS: Mapping[object, int] = {
    "deflated": zipfile.ZIP_DEFLATED,
    "stored": zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED: zipfile.ZIP_DEFLATED,
    zipfile.ZIP_STORED: zipfile.ZIP_STORED,
}
_DATE = (2000, 1, 1, 0, 0, 0)
_CHUNK_BYTES = 1 << 20


class PackageArguments(TypedDict, total=False):
    """The arguments that every packager takes, beside `neuropod_path` and `model_name`.

    Attributes
    ----------
    problem
        What the model solves; instead of `input_spec` and `output_spec`.
    input_spec, output_spec
        The tensors: dictionaries with ``name``, ``dtype`` and ``shape``, notations, or `TensorSpec` objects.
    platform_version_semver
        The npm-style range of framework versions that the model runs on; ``"*"`` for any.
    input_tensor_device, default_input_tensor_device
        ``"GPU"`` or ``"CPU"`` for each input, and for those that it does not name (``"GPU"``).
    custom_ops
        Paths of libraries with custom operators; several, where there is one for each kind of machine. For which each
        was built is read from its header and recorded.
    package_as_zip, zip_compression
        One zip file (the default, ``"deflated"`` or ``"stored"``), or a folder.
    test_input_data, test_expected_out
        Tensors by name: what goes in and what must come out. Without the second, what came out is recorded.
    persist_test_data
        Whether they become part of the package (the default).
    neuropod_load_args
        Arguments of `load_neuropod` for the proof.
    """

    problem: Problem
    input_spec: Mapping[str, SpecLike] | Sequence[SpecLike]
    output_spec: Mapping[str, SpecLike] | Sequence[SpecLike]
    platform_version_semver: str
    input_tensor_device: Mapping[str, str] | None
    default_input_tensor_device: str
    custom_ops: Sequence[str | os.PathLike[str]]
    package_as_zip: bool
    zip_compression: ZipCompression
    test_input_data: Mapping[str, Any] | None
    test_expected_out: Mapping[str, Any] | None
    persist_test_data: bool
    neuropod_load_args: Mapping[str, Any] | None


@dataclass(frozen=True)
class NewPackage:
    """A package under construction.

    Attributes
    ----------
    folder
        The empty folder of its variant, to be filled with the artefact.
    problem
        What the model solves.
    """

    folder: Path
    problem: Problem


@contextmanager
def new_package(
    platform: str,
    *,
    neuropod_path: str | os.PathLike[str],
    model_name: str,
    **arguments: Unpack[PackageArguments],
) -> Iterator[NewPackage]:
    """Write a package: the block fills the variant's folder, leaving it does the rest.

    The rest is: declaration, test data and manifest; loading the result and running the test data; one move to
    `neuropod_path`. Whatever fails, nothing is left behind.

    Parameters
    ----------
    platform
        The artefact kind.
    neuropod_path
        Where the package goes; nothing may be there.
    model_name
        What it is called.
    arguments
        See `PackageArguments`.

    Raises
    ------
    PackagingError
        If an argument is wrong, something is at `neuropod_path`, it cannot be written, or the package does not load or
        gives other results.
    SpecError
        If `input_spec` or `output_spec` is wrong.

    Examples
    --------
    >>> with new_package("echo", neuropod_path="m.neuropod", model_name="m", problem=problem) as new:  # doctest: +SKIP
    ...     (new.folder / "data").mkdir()
    """
    _check_arguments(arguments)
    target = _free(Path(neuropod_path))
    problem, libraries = _problem(arguments), _libraries(arguments)
    declaration = _declaration(
        Config(
            model_name,
            platform,
            problem,
            arguments.get("platform_version_semver", "*"),
            tuple(library.name for library in libraries),
            _input_devices(problem, arguments),
            targets_of(libraries),
        )
    )
    with _workplace(target) as work:
        root = work / "package"
        folder = root / VARIANT
        folder.mkdir(parents=True)
        _copy_custom_ops(folder, libraries)
        yield NewPackage(folder, problem)
        with _writing(target):
            (root / CONFIG).write_bytes(declaration)
            _prove(work, root, arguments)
            _publish(work, root, target, arguments)


def repack(
    source: str | os.PathLike[str],
    neuropod_path: str | os.PathLike[str],
    *,
    package_as_zip: bool = True,
    zip_compression: ZipCompression = "deflated",
) -> None:
    """Write a package again, as a zip file or as a folder; every file stays as it is, those unknown to us too.

    Raises
    ------
    PackageError
        If `source` is no sound package, or something is at `neuropod_path`.
    """
    arguments: PackageArguments = {"package_as_zip": package_as_zip, "zip_compression": zip_compression}
    _check_arguments(arguments)
    target = _free(Path(neuropod_path))
    with Package.open(source) as package, _workplace(target) as work, _writing(target):
        root = work / "package"
        package.unpack(root)
        _publish(work, root, target, arguments)


# -- arguments --------------------------------------------------------------------------------------------------------


def _check_arguments(arguments: PackageArguments) -> None:
    unknown = sorted(set(arguments) - set(PackageArguments.__annotations__))
    if unknown:
        known = ", ".join(sorted(PackageArguments.__annotations__))
        raise PackagingError(f"unknown arguments {shown(unknown)} (known: {known})", remedy="leave them out")
    if arguments.get("zip_compression", "deflated") not in _COMPRESSIONS:
        what = f"zip_compression is 'deflated' or 'stored', not {shown(arguments['zip_compression'])}"
        raise PackagingError(what)
    for key in ("test_input_data", "test_expected_out"):
        if not isinstance(arguments.get(key), Mapping | None):
            raise PackagingError(f"{key} are tensors by name, not {describe(arguments.get(key))}")
    unknown = sorted(set(arguments.get("neuropod_load_args") or {}) - set(load_neuropod.__kwdefaults__ or {}))
    if unknown:
        raise PackagingError(f"neuropod_load_args has {shown(unknown)}, which load_neuropod does not take")


def _free(target: Path) -> Path:
    if "\0" in str(target):
        raise PackagingError(f"{shown(str(target))} is no path")
    with _writing(target):
        if os.path.lexists(target):
            what, remedy = "something is there already", "remove it or choose another path"
            raise PackagingError(what, at=str(target), remedy=remedy)
        if not target.parent.is_dir():
            raise PackagingError("there is no such folder", at=str(target.parent), remedy="create it first")
        return target.absolute()


def _problem(arguments: PackageArguments) -> Problem:
    specs = [arguments.get(key) for key in ("input_spec", "output_spec")]
    problem = arguments.get("problem")
    if isinstance(problem, Problem) and specs == [None, None]:
        return problem
    if problem is not None or None in specs:
        raise PackagingError("pass either problem, a Problem, or input_spec and output_spec")
    inputs, outputs = cast("list[Sequence[SpecLike]]", specs)
    return Problem.of(inputs, outputs)


def _input_devices(problem: Problem, arguments: PackageArguments) -> dict[str, str]:
    default = arguments.get("default_input_tensor_device", "GPU")
    named = arguments.get("input_tensor_device") or {}
    unknown = set(named) - {spec.name for spec in problem.inputs}
    if unknown or not {default, *named.values()} <= {"GPU", "CPU"}:
        what = f"input_tensor_device gives 'GPU' or 'CPU' to inputs, not {shown(dict(named))} (default {default!r})"
        raise PackagingError(what)
    return {spec.name: named.get(spec.name, default) for spec in problem.inputs}


def _libraries(arguments: PackageArguments) -> list[Path]:
    given: object = arguments.get("custom_ops") or ()
    if not isinstance(given, list | tuple):  # One path is a sequence, too: of letters.
        raise PackagingError(f"custom_ops is a list of paths, not {shown(given)}")
    return [Path(library) for library in given]


def _copy_custom_ops(folder: Path, libraries: Sequence[Path]) -> None:
    for library in libraries:
        target = folder / "ops" / library.name
        if target.exists():
            raise PackagingError(f"two custom ops are called {library.name!r}")
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(library, target)
        except OSError as error:
            raise PackagingError(f"a custom op cannot be read: {error.strerror}", at=str(library)) from error


def _declaration(config: Config) -> bytes:
    """Write the declaration, and read it as a stranger would: a bad name is refused here and not by its first user."""
    try:
        written = config.to_bytes()
        Config.from_bytes(written)
    except PackageFormatError as error:
        raise PackagingError(error.what, error.at, error.remedy) from error
    except TypeError as error:
        raise PackagingError(f"the declaration of {shown(config.name)} cannot be written: {error}") from error
    return written


# -- the proof --------------------------------------------------------------------------------------------------------


def _prove(work: Path, root: Path, arguments: PackageArguments) -> None:
    try:
        _write_manifest(root)
        loading: dict[str, Any] = {"trust": Trust.CODE, "cache_dir": work / "cache"}
        with load_neuropod(root, **loading | dict(arguments.get("neuropod_load_args") or {})) as model:
            tried = _tried(model.infer, model.problem, arguments)
        if tried is not None and arguments.get("persist_test_data", True):
            (root / test_data.FILE_NAME).write_bytes(_encoded(tried))
            _write_manifest(root)
    except PackagingError:
        raise
    except NeuropodError as error:
        raise PackagingError(f"what was written does not work: {error}") from error


def _tried(infer: Any, problem: Problem, arguments: PackageArguments) -> TestData | None:
    given = arguments.get("test_input_data")
    wanted = arguments.get("test_expected_out")
    if given is None:
        if wanted is not None:
            raise PackagingError("test_expected_out needs test_input_data")
        return None
    inputs, _ = input_check(problem)(given)
    if wanted is None:
        return TestData(inputs, infer(inputs))
    expected = {name: _expected(name, value) for name, value in wanted.items()}
    compare(infer(inputs, tuple(expected)), expected)
    return TestData(inputs, expected)


def _expected(name: str, value: object) -> Array:
    array = as_array(value)
    if array is None:
        with suppress(ValueError):  # A list of lists of different lengths.
            array = np.asarray(value)
    tensor = as_text(array) if array is not None and array.dtype.kind in "OUST" else array
    if tensor is None or dtype_of(tensor) is None:
        raise PackagingError(f"test_expected_out.{name} is {describe(value)}, no tensor")
    return tensor


def _encoded(tried: TestData) -> bytes:
    encoded, limit = test_data.encode(tried), Limits().test_data_bytes
    if len(encoded) > limit:
        what = f"at most {limit} bytes of test data are read from a package, these are {len(encoded)}"
        raise PackagingError(what, remedy="pass less of it, or persist_test_data=False")
    return encoded


def _write_manifest(root: Path) -> None:
    container = open_container(root, Limits())
    files = {name: container.digest(name) for name in container.files if name != MANIFEST}
    (root / MANIFEST).write_bytes(Manifest(files).to_bytes())


# -- into its place ---------------------------------------------------------------------------------------------------


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except NeuropodError:
        raise
    except OSError as error:
        raise PackagingError(f"cannot be written: {error}", at=str(target)) from error


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    with _writing(target):
        work = Workplace(target.parent, "packing")
    with closing(work):
        yield work.folder


def _publish(work: Path, root: Path, target: Path, arguments: PackageArguments) -> None:
    if not arguments.get("package_as_zip", True):
        _free(target)
        root.rename(target)  # Fails where somebody put a folder there meanwhile, unless it is empty.
        return
    archive = work / "package.zip"
    _write_archive(root, archive, _COMPRESSIONS[arguments.get("zip_compression", "deflated")])
    try:
        target.hardlink_to(archive)  # Unlike a rename, it never replaces what somebody put there meanwhile.
    except FileExistsError:
        _free(target)
    except OSError:  # A file system without links.
        _free(target)
        archive.rename(target)


def _write_archive(root: Path, archive: Path, compression: int) -> None:
    """Write a zip file that depends on nothing but the content: order, dates, modes and extra fields are fixed."""
    _zip(root, archive, compression)
    packed, unpacked = archive.stat().st_size, sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    limits = Limits()
    if unpacked > max(limits.expansion_free_bytes, limits.expansion * packed):
        _zip(root, archive, zipfile.ZIP_STORED)  # Compressed so far, its readers would take it for a bomb.


def _zip(root: Path, archive: Path, compression: int) -> None:
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path, _DATE)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            entry.compress_type, entry.file_size = compression, (root / path).stat().st_size
            with (root / path).open("rb") as source, target.open(entry, "w") as into:
                shutil.copyfileobj(source, into, _CHUNK_BYTES)
