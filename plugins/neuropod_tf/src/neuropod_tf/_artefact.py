"""Bytes on disk -> a graph, its signatures, and how to bring its state to life; nothing runs here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neuropod_core import ModelLoadError, PackageFormatError, Variant
from neuropod_core.errors import shown
from neuropod_tf._protos import parsed_graph, parsed_saved_model, without_devices
from neuropod_tf._signatures import Signature

__all__ = [
    "DEFAULT_SIGNATURE",
    "DEFAULT_TAGS",
    "Artefact",
    "names_of_init_ops",
    "read_frozen_graph",
    "read_saved_model",
    "read_variant",
]

DEFAULT_SIGNATURE = "serving_default"
INIT_SIGNATURE = "__saved_model_init_op"
TRAINING_SIGNATURE = "__saved_model_train_op"
DEFAULT_TAGS = ("serve",)
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_ASSETS_COLLECTION = "saved_model_assets"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Artefact:
    """A graph that can be imported, and what a session must do before it is called.

    Parameters
    ----------
    graph_def
        The graph.
    at
        Where it came from, for messages.
    signatures
        Name -> the tensors that a SavedModel offers under that name; empty for a frozen graph.
    restore
        The operation that reads the variables, and what to feed it; empty if there are none.
    init_ops
        Operations to run once, after `restore`, with `assets` fed.
    assets
        Tensor name -> the path of the file that it wants.
    stripped_ops
        What the writer knew of operations that it used.
    """

    graph_def: Any
    at: str
    signatures: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    restore: tuple[str, Mapping[str, str]] = ("", _NOTHING)
    init_ops: tuple[str, ...] = ()
    assets: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    stripped_ops: Any = None

    def signature(self, name: str | None) -> Signature:
        """Give the signature called `name`, without a name ``serving_default`` or the only one there is.

        It is empty where the artefact has none at all and none is asked for.

        Raises
        ------
        ModelLoadError
            If there is no such signature, with those that there are.
        """
        if name is None and not self.signatures:
            return Signature({}, {})
        only = next(iter(self.signatures)) if len(self.signatures) == 1 else DEFAULT_SIGNATURE
        wanted = name or only
        if wanted not in self.signatures:
            there = ", ".join(map(repr, sorted(self.signatures))) or "none"
            remedy = "choose one of them by the option signature" if self.signatures else ""
            raise ModelLoadError(f"the model has no signature {shown(wanted)} (there are: {there})", self.at, remedy)
        return Signature.of(self.signatures[wanted])


def read_variant(variant: Variant, tags: str | None = None) -> Artefact:
    """Read the SavedModel of a variant, or its frozen graph where it has no SavedModel.

    Parameters
    ----------
    variant
        What is read.
    tags
        Tags of the graph of a SavedModel to run, with commas between them; ``serve`` by default.

    Raises
    ------
    PackageFormatError
        If it has neither.
    ModelLoadError
        If it cannot be read.
    """
    frozen, saved = (variant.folder / "data" / name for name in ("model.pb", "savedmodel"))
    if frozen.exists() and not saved.exists():
        return replace(read_frozen_graph(frozen), at=f"{variant.folder.name}/data/model.pb")
    wanted = (tags or "").replace(",", " ").split()
    saved_model = read_saved_model(variant.artefact("data/savedmodel"), wanted or DEFAULT_TAGS)
    return replace(saved_model, at=f"{variant.folder.name}/data/savedmodel")


def read_frozen_graph(path: Path) -> Artefact:
    """Read a serialised ``GraphDef``."""
    return Artefact(without_devices(parsed_graph(path)), str(path))


def read_saved_model(folder: Path, tags: Collection[str] = DEFAULT_TAGS) -> Artefact:
    """Read a SavedModel: of `tf.saved_model.save`, of Keras' ``export`` or of the TF1 builder.

    Parameters
    ----------
    folder
        Where it lies.
    tags
        What the graph to run is tagged with; of several such graphs, the one with the fewest other tags is taken.

    Raises
    ------
    ModelLoadError
        If it holds no such graph, or its variables are missing.
    """
    meta_graph = _tagged_graph(parsed_saved_model(folder), folder, set(tags))
    own = {INIT_SIGNATURE, TRAINING_SIGNATURE}
    return Artefact(
        graph_def=without_devices(meta_graph.graph_def),
        at=str(folder),
        signatures={name: sig for name, sig in meta_graph.signature_def.items() if name not in own},
        restore=_restore(meta_graph, folder),
        init_ops=tuple(_init_ops(meta_graph)),
        assets={name: str(folder / "assets" / file) for name, file in _assets(meta_graph)},
        stripped_ops=meta_graph.meta_info_def.stripped_op_list,
    )


def names_of_init_ops(value: object) -> tuple[str, ...]:
    """Read ``init_op_names`` of a package, where no name, one name and a list of names are all allowed.

    Raises
    ------
    PackageFormatError
        If it is anything else.
    """
    names = [value] if isinstance(value, str) and value else value or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise PackageFormatError(f"init_op_names is a list of names, not {shown(value)}", at="0/config.json")
    return tuple(names)


def _tagged_graph(saved_model: Any, folder: Path, tags: set[str]) -> Any:
    graphs = sorted(
        (graph for graph in saved_model.meta_graphs if tags <= set(graph.meta_info_def.tags)),
        key=lambda graph: len(graph.meta_info_def.tags),
    )
    if not graphs:
        there = "; ".join(", ".join(map(repr, graph.meta_info_def.tags)) for graph in saved_model.meta_graphs) or "none"
        what = f"the SavedModel has no graph with the tag {', '.join(map(shown, sorted(tags)))} (tags: {there})"
        raise ModelLoadError(what, at=str(folder), remedy="choose those of a graph by the option tags")
    return graphs[0]


def _restore(meta_graph: Any, folder: Path) -> tuple[str, Mapping[str, str]]:
    saver = meta_graph.saver_def
    if not saver.restore_op_name:
        return "", _NOTHING
    if not (folder / "variables").is_dir():
        raise ModelLoadError("the SavedModel restores variables and has no folder variables/", at=str(folder))
    return saver.restore_op_name, {saver.filename_tensor_name: str(folder / "variables" / "variables")}


def _init_ops(meta_graph: Any) -> Iterator[str]:
    if INIT_SIGNATURE in meta_graph.signature_def:
        yield meta_graph.signature_def[INIT_SIGNATURE].outputs[INIT_SIGNATURE].name
        return
    for collection in _INIT_COLLECTIONS:
        names = meta_graph.collection_def[collection].node_list.value if collection in meta_graph.collection_def else ()
        if names:
            yield from names
            return


def _assets(meta_graph: Any) -> Iterator[tuple[str, str]]:
    for asset in meta_graph.asset_file_def or _assets_of_tf1(meta_graph):
        path = Path(asset.filename)
        if path.is_absolute() or ".." in path.parts:
            raise ModelLoadError(f"an asset is called {shown(asset.filename)}, which is no file below assets/")
        yield asset.tensor_info.name, asset.filename


def _assets_of_tf1(meta_graph: Any) -> Iterator[Any]:
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

    if _ASSETS_COLLECTION in meta_graph.collection_def:
        for packed in meta_graph.collection_def[_ASSETS_COLLECTION].any_list.value:
            asset = AssetFileDef()
            packed.Unpack(asset)
            yield asset
