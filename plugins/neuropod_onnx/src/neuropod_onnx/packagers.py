"""Writes packages of platform ``onnx``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropod_core.errors import ModelLoadError, PackageError, PackagingError, shown
from neuropod_core.packaging import new_package
from neuropod_core.problem import Problem, TensorSpec
from neuropod_onnx._types import refusal
from neuropod_onnx.contents import Contents, Declared, check_external, parse_contents, read_contents

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from neuropod_core.packaging import PackageArguments

__all__ = ["create_onnx_neuropod"]

_MODEL = "model.onnx"


def create_onnx_neuropod(
    *,
    neuropod_path: str | Path,
    model_name: str,
    model: Any = None,
    model_path: str | Path | None = None,
    node_name_mapping: Mapping[str, str] | None = None,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Package an ONNX model.

    Parameters
    ----------
    neuropod_path
        Where to write the package.
    model_name
        What to call it.
    model
        An ``onnx.ModelProto`` that holds all of its tensors, or the bytes of one. Exactly one of this and `model_path`.
    model_path
        A model file; the files in which it keeps tensors are packaged with it. The way for models beyond 2 GB.
    node_name_mapping
        The problem's names to the model's, for those that differ.
    **arguments
        What every packager takes. Without a problem or specs, they are what the model declares: its symbolic dimensions
        become symbols.

    Raises
    ------
    PackagingError
        If the model cannot be packaged as it is.
    PackageFormatError
        If problem and model contradict each other, or tensors lie outside of the model's folder.
    """
    source = _Source(model, model_path)
    mapping = dict(node_name_mapping or {})
    if not arguments.keys() & {"problem", "input_spec", "output_spec"}:
        arguments["problem"] = _declared_problem(source.contents, mapping)
    with new_package("onnx", neuropod_path=neuropod_path, model_name=model_name, **arguments) as package:
        _check_mapping(mapping, package.problem)
        source.write(package.folder / "data")
        if mapping:
            text = json.dumps({"node_name_mapping": mapping}, indent=4, sort_keys=True)
            (package.folder / "config.json").write_text(text, "utf-8")


class _Source:
    """A model, in memory or in files."""

    def __init__(self, model: Any, model_path: str | Path | None) -> None:
        if (model is None) == (model_path is None):
            raise PackagingError("exactly one of model and model_path is needed")
        self._path = None if model_path is None else Path(model_path)
        self._bytes = b"" if self._path else _serialized(model)
        self._files: dict[str, Path] = {}
        self.contents = self._read()

    def write(self, folder: Path) -> None:
        """Put the model into `folder` as ``model.onnx``, with its files where it looks for them."""
        folder.mkdir(parents=True)
        target = folder / _MODEL
        if self._path is None:
            target.write_bytes(self._bytes)
            return
        shutil.copyfile(self._path, target)
        for location, file in self._files.items():
            copy = folder / location
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                shutil.copyfile(file, copy)

    def _read(self) -> Contents:
        try:
            contents = read_contents(self._path) if self._path else parse_contents(self._bytes, "model")
        except (ModelLoadError, PackageError) as error:
            raise PackagingError(str(error)) from error
        if self._path is None and contents.external:
            remedy = "save it and pass model_path, or load the data into the model (onnx.load does)"
            raise PackagingError("the model keeps tensors in files, which are not at hand", at="model", remedy=remedy)
        if self._path is not None:
            self._files = _external_files(contents, self._path)
        return contents


def _serialized(model: Any) -> bytes:
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model)
    if not hasattr(model, "SerializeToString"):
        raise PackagingError(f"a model is an onnx.ModelProto or bytes, not {shown(model)}")
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # Depends on the Protocol Buffers library behind it.
        remedy = "beyond 2 GB, save it with onnx.save(..., save_as_external_data=True) and pass model_path"
        raise PackagingError(f"the model cannot be serialized: {error}", remedy=remedy) from error


def _external_files(contents: Contents, path: Path) -> dict[str, Path]:
    # A cache that links to its files by content links the model and its data alike.
    folder = path.parent
    files = check_external(contents, folder, also_inside=path.resolve().parent if path.is_symlink() else None)
    for location, file in files.items():
        if Path(location) == Path(_MODEL) and file.resolve() != path.resolve():
            raise PackagingError(f"the model keeps tensors in a file called {_MODEL}", remedy="rename that file")
    return files


# -- names and specs --------------------------------------------------------------------------------------------------


def _check_mapping(mapping: Mapping[str, str], problem: Problem) -> None:
    known = {spec.name for spec in (*problem.inputs, *problem.outputs)}
    for name, node in mapping.items():
        if not isinstance(node, str):
            raise PackagingError(f"expected the name of a node, got {shown(node)}", at=f"node_name_mapping.{name}")
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise PackagingError(
                f"{shown(name)} is no tensor of the problem (its tensors are {there})", at="node_name_mapping"
            )


def _declared_problem(contents: Contents, mapping: Mapping[str, str]) -> Problem:
    ours = {node: name for name, node in mapping.items()}
    inputs = [declared for name, declared in contents.inputs.items() if name not in contents.initializers]
    return Problem(
        tuple(_spec(declared, ours, "input") for declared in inputs),
        tuple(_spec(declared, ours, "output") for declared in contents.outputs.values()),
    )


def _spec(declared: Declared, ours: Mapping[str, str], side: str) -> TensorSpec:
    if declared.dtype is None and declared.type_name:
        reason, remedy = refusal(declared.type_name)
        raise PackagingError(f"{side} {shown(declared.name)} of the model {reason}", remedy=remedy)
    if declared.dtype is None or declared.shape is None:
        missing = "a type" if declared.dtype is None else "a shape"
        what = f"the model does not declare {missing} for {side} {shown(declared.name)}"
        raise PackagingError(what, remedy="pass input_spec and output_spec, or a problem")
    name = ours.get(declared.name, declared.name)
    return TensorSpec(name, declared.dtype, declared.shape, optional=declared.optional)
