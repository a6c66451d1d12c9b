"""Writes packages of TensorFlow and Keras models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropod_core import NeuropodError, PackagingError, Problem
from neuropod_core.errors import shown
from neuropod_core.packaging import PackageArguments, new_package
from neuropod_tf import _keras
from neuropod_tf._artefact import DEFAULT_TAGS, names_of_init_ops, read_saved_model
from neuropod_tf._errors import summary
from neuropod_tf._protos import parsed_graph
from neuropod_tf._saving import save_trackable
from neuropod_tf._signatures import Signature

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["create_keras_neuropod", "create_tensorflow_neuropod"]

_PLATFORM = "tensorflow"


def create_tensorflow_neuropod(
    *,
    neuropod_path: str | os.PathLike[str],
    model_name: str,
    saved_model_dir: str | os.PathLike[str] | None = None,
    trackable_obj: Any = None,
    frozen_graph_path: str | os.PathLike[str] | None = None,
    graph_def: Any = None,
    node_name_mapping: Mapping[str, str] | None = None,
    init_op_names: str | Sequence[str] | None = None,
    signature: str | None = None,
    tags: str | Sequence[str] | None = None,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Package a TensorFlow model; exactly one of the four sources is given.

    Parameters
    ----------
    neuropod_path
        Where the package goes; nothing may be there.
    model_name
        What it is called.
    saved_model_dir
        The folder of a SavedModel.
    trackable_obj
        What `tf.saved_model.save` takes: a `tf.Module`, a loaded SavedModel, a Keras model; or a function. Of an
        object, the function called `signature` is served; else its ``serving_default``, its ``__call__`` or its only
        `tf.function`. One without ``input_signature`` is traced with the specs of the problem, by argument names.
    frozen_graph_path, graph_def
        A graph, serialised in a file (as text if it is called ``.pbtxt``) or as a ``GraphDef``. Variables in it are
        brought to life by `init_op_names`.
    node_name_mapping
        Names of the problem -> keys of the signature, or names of nodes (``scope/node`` or ``scope/node:0``). A graph
        needs it for every tensor, a SavedModel where the names differ.
    init_op_names
        Operations to run once when the model is loaded.
    signature
        The signature to run, ``serving_default`` by default.
    tags
        Tags of the graph in `saved_model_dir` to run, ``serve`` by default.
    arguments
        See `neuropod_core.packaging.PackageArguments`.

    Raises
    ------
    PackagingError
        If an argument is wrong, or the model does not fit the problem or does not give the expected results; nothing
        is left behind.
    """
    given = {
        "saved_model_dir": saved_model_dir,
        "trackable_obj": trackable_obj,
        "frozen_graph_path": frozen_graph_path,
        "graph_def": graph_def,
    }
    source = _only_source(given, dict(node_name_mapping or {}), signature, tags)
    with new_package(_PLATFORM, neuropod_path=neuropod_path, model_name=model_name, **arguments) as new, _packaging():
        data = new.folder / "data"
        data.mkdir()
        _check_names(source.mapping, new.problem)
        found = _WRITERS[source.argument](source, data, new.problem)
        chosen = {"signature": signature, "tags": ",".join(source.tags)}
        _write_config(new.folder, {**found, **source.mapping}, init_op_names, chosen)


def create_keras_neuropod(
    *,
    neuropod_path: str | os.PathLike[str],
    model_name: str,
    model: Any,
    node_name_mapping: Mapping[str, str] | None = None,
    sess: Any = None,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Package a Keras 3 model; its problem is read off the model where none is given.

    Parameters
    ----------
    neuropod_path
        Where the package goes; nothing may be there.
    model_name
        What it is called.
    model
        The model. Inputs are called as their tensors, outputs as their keys or the layers that give them. The first
        dimension becomes the symbol ``batch_size``, other open ones have any length.
    node_name_mapping
        Names of the problem -> those names, where they differ.
    sess
        Ignored; Keras 3 has no sessions.
    arguments
        See `neuropod_core.packaging.PackageArguments`.

    Raises
    ------
    PackagingError
        If an argument is wrong, or the model does not fit the problem or does not give the expected results; nothing
        is left behind.
    """
    del sess
    mapping = dict(node_name_mapping or {})
    with _packaging():
        names = _keras.names_of(model)
        if not {"problem", "input_spec", "output_spec"} & set(arguments):
            arguments["input_spec"], arguments["output_spec"] = _keras.specs_of(model, names, mapping)
    with new_package(_PLATFORM, neuropod_path=neuropod_path, model_name=model_name, **arguments) as new, _packaging():
        folder = new.folder / "data" / "savedmodel"
        _keras.export(model, folder, new.problem, mapping)
        known = _keras.exported_names(names, read_saved_model(folder).signature(None), new.problem)
        _write_config(new.folder, _keras.keys_of(new.problem, known, mapping))


@dataclass(frozen=True)
class _Source:
    """What is packaged: the argument that named it, its value, and what else was said about it."""

    argument: str
    value: Any
    mapping: Mapping[str, str]
    signature: str | None
    tags: tuple[str, ...]


def _only_source(
    given: Mapping[str, Any], mapping: Mapping[str, str], signature: str | None, tags: str | Sequence[str] | None
) -> _Source:
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise PackagingError(f"expected exactly one of {', '.join(given)}, got {', '.join(names) or 'none'}")
    if tags and names != ["saved_model_dir"]:
        raise PackagingError("only a saved_model_dir has graphs to choose from by tags", remedy="leave out tags")
    wanted = (tags,) if isinstance(tags, str) else tuple(tags or ())
    return _Source(names[0], given[names[0]], mapping, signature, wanted)


def _write_saved_model(source: _Source, data: Path, problem: Problem) -> dict[str, str]:
    del problem
    read_saved_model(Path(source.value), source.tags or DEFAULT_TAGS).signature(source.signature)
    shutil.copytree(source.value, data / "savedmodel", copy_function=shutil.copyfile)
    return {}


def _write_trackable(source: _Source, data: Path, problem: Problem) -> dict[str, str]:
    folder = data / "savedmodel"
    save_trackable(source.value, folder, problem, source.mapping, source.signature)
    return _by_position(read_saved_model(folder).signature(source.signature), problem)


def _write_frozen_graph(source: _Source, data: Path, problem: Problem) -> dict[str, str]:
    _check_complete(source, problem)
    path = Path(source.value)
    if path.suffix == ".pbtxt":
        return _write_graph_def(replace(source, value=parsed_graph(path)), data, problem)
    shutil.copyfile(path, data / "model.pb")
    return {}


def _write_graph_def(source: _Source, data: Path, problem: Problem) -> dict[str, str]:
    _check_complete(source, problem)
    graph_def = source.value.as_graph_def() if hasattr(source.value, "as_graph_def") else source.value
    (data / "model.pb").write_bytes(graph_def.SerializeToString(deterministic=True))
    return {}


_WRITERS: Mapping[str, Callable[[_Source, Path, Problem], dict[str, str]]] = {
    "saved_model_dir": _write_saved_model,
    "trackable_obj": _write_trackable,
    "frozen_graph_path": _write_frozen_graph,
    "graph_def": _write_graph_def,
}


def _check_names(mapping: Mapping[str, str], problem: Problem) -> None:
    known = {spec.name for spec in (*problem.inputs, *problem.outputs)}
    unknown = sorted(set(mapping) - known)
    if unknown:
        what = f"node_name_mapping names {', '.join(map(shown, unknown))} (the problem has: {', '.join(sorted(known))})"
        raise PackagingError(what)


def _check_complete(source: _Source, problem: Problem) -> None:
    """Hold the mapping of a graph, which has no signature to speak for it, against the problem."""
    if source.signature is not None:
        raise PackagingError("a graph has no signatures", remedy="leave out signature")
    names = [spec.name for spec in (*problem.inputs, *problem.outputs)]
    missing = [name for name in names if name not in source.mapping]
    if missing:
        there = ", ".join(map(repr, source.mapping)) or "nothing"
        what = f"node_name_mapping names {there}, the problem also has {', '.join(map(repr, missing))}"
        raise PackagingError(what, remedy="name a node for every input and output")


def _by_position(signature: Signature, problem: Problem) -> dict[str, str]:
    """Pair outputs that TensorFlow numbered, for want of names, with those of the problem in their order."""
    numbered = [f"output_{number}" for number in range(len(problem.outputs))]
    if sorted(signature.outputs) != sorted(numbered):
        return {}
    return {spec.name: key for spec, key in zip(problem.outputs, numbered, strict=True)}


def _write_config(
    folder: Path,
    mapping: Mapping[str, str],
    init_ops: str | Sequence[str] | None = None,
    chosen: Mapping[str, str | None] | None = None,
) -> None:
    fields: dict[str, object] = {"node_name_mapping": dict(mapping), "init_op_names": list(names_of_init_ops(init_ops))}
    fields |= {key: value for key, value in (chosen or {}).items() if value}
    (folder / "config.json").write_text(json.dumps(fields, indent=4, sort_keys=True), "utf-8")


@contextmanager
def _packaging() -> Iterator[None]:
    """Turn what TensorFlow and Keras raise while a model is written into a `PackagingError`."""
    try:
        yield
    except PackagingError:
        raise
    except NeuropodError as error:
        raise PackagingError(str(error)) from error
    except Exception as error:  # Tracing runs the user's own code, which may raise anything.
        raise PackagingError(f"the model cannot be saved: {type(error).__name__}: {summary(error)}") from error
