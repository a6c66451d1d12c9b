"""Backends of pure NumPy for the tests of the command line; packages name what their model does."""

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from neuropod_core import (
    Backend,
    Descriptor,
    Executor,
    InferenceError,
    LoadOptions,
    Names,
    PackagingError,
    Tensors,
    Trust,
    Variant,
    hookimpl,
)
from neuropod_core.packaging import new_package

neuropod_contract = (1, 0)

ESCAPE = "\x1b[31m[bold]red[/bold]\x07"


def double(inputs: Tensors) -> Tensors:
    return {"y": inputs["x"] * inputs["x"].dtype.type(2)}


def same(inputs: Tensors) -> Tensors:
    return {f"y{name[1:]}": array.copy() for name, array in inputs.items()}


def strange(inputs: Tensors) -> Tensors:
    del inputs
    return {"y": np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)}


def hostile(inputs: Tensors) -> Tensors:
    del inputs
    return {"y": np.array([ESCAPE], object)}


def chatty(inputs: Tensors) -> Tensors:
    sys.stdout.write("chatter of the model\n")
    os.write(1, b"chatter of its native code\n")
    return double(inputs)


def late(inputs: Tensors) -> Tensors:
    atexit.register(print, "chatter at the end")
    return double(inputs)


def listing(inputs: Tensors) -> Any:
    return {"y": [1.0, 2.0]}


def failing(inputs: Tensors) -> Tensors:
    raise InferenceError(f"the framework failed {ESCAPE}", at=", ".join(inputs))


def buggy(inputs: Tensors) -> Tensors:
    del inputs
    raise KeyboardInterrupt


def exiting(inputs: Tensors) -> Tensors:
    del inputs
    sys.exit(0)


def blocking(inputs: Tensors) -> Tensors:
    sys.stderr.write("running\n")
    sys.stderr.flush()
    signal.pause()
    return inputs


class Model(Executor):
    def __init__(self, function: str) -> None:
        self._function = globals()[function]

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        del outputs
        results: Tensors = self._function(inputs)
        return results

    def close(self) -> None:
        pass


class Double(Backend):
    def __init__(self, platform: str) -> None:
        framework = ("no-such-framework",) if platform == "unframed" else ()
        self.descriptor = Descriptor(
            platform,
            Trust.GRAPH,
            framework,
            install="pip install no-such-framework",
            options={"factor": "multiplies"},
            packagers={"create_double_neuropod": "neuropod_double:create"},
            packs={"*.double": "create_double_neuropod:path", "*/": "create_double_neuropod:folder"},
        )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        del options
        return Model(json.loads(variant.artefact("data/model.json").read_bytes())["function"])


def create(
    *,
    neuropod_path: Path,
    model_name: str,
    path: Path | None = None,
    folder: Path = Path(),
    node_name_mapping: dict[str, str] | None = None,
    level: int = 1,
    **arguments: Any,
) -> None:
    """Package a file that holds the name of a function, or a folder with that file."""
    sys.stdout.write("chatter of the packager\n")
    if level != 1 or node_name_mapping not in (None, {"x": "a:0"}):
        raise PackagingError(f"level {level!r}, mapping {node_name_mapping!r}")
    source = path if path is not None else folder / "model.double"
    with new_package("double", neuropod_path=neuropod_path, model_name=model_name, **arguments) as new:
        (new.folder / "data").mkdir()
        (new.folder / "data" / "model.json").write_text(json.dumps({"function": source.read_text()}))


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    return Double(platform)
