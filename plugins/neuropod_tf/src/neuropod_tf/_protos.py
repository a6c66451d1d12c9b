"""Files -> TensorFlow's messages, in the binary form or as text."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from neuropod_core import ModelLoadError
from neuropod_tf._errors import loading

__all__ = ["parsed_graph", "parsed_saved_model", "without_devices"]

_TEXT = ".pbtxt"


def parsed_graph(path: Path) -> Any:
    """Read a ``GraphDef`` from a file; one called ``.pbtxt`` is text.

    Raises
    ------
    ModelLoadError
        If it cannot be read.
    """
    from tensorflow.core.framework.graph_pb2 import GraphDef

    return _parsed(path, GraphDef())


def parsed_saved_model(folder: Path) -> Any:
    """Read ``saved_model.pb`` of a folder, or ``saved_model.pbtxt`` where there is no other.

    Raises
    ------
    ModelLoadError
        If it cannot be read.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    binary, text = (folder / f"saved_model{suffix}" for suffix in (".pb", _TEXT))
    return _parsed(text if text.exists() and not binary.exists() else binary, SavedModel())


def without_devices(graph_def: Any) -> Any:
    """Take the devices of the machine that wrote a graph out of it, but for what it keeps on the CPU; gives it.

    A placement on a worker of a training job, or on a GPU that is not there, says nothing about where it is to run now.
    """
    _clear(graph_def.node)
    for function in graph_def.library.function:
        _clear(function.node_def)
    return graph_def


def _clear(nodes: Iterable[Any]) -> None:
    for node in nodes:
        if node.device:
            node.device = "/device:CPU:0" if "cpu:" in node.device.lower() else ""


def _parsed(path: Path, message: Any) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"cannot be read: {error.strerror}", at=str(path)) from error
    with loading(str(path)):
        if path.suffix == _TEXT:
            return import_module("google.protobuf.text_format").Parse(
                content.decode(), message
            )  # TensorFlow's own need.
        message.ParseFromString(content)
    return message
