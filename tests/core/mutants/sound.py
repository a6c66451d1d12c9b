"""The sound backend that all mutants are made of."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from neuropod_core import (
    Backend,
    Descriptor,
    DeviceError,
    Executor,
    InferenceError,
    LoadOptions,
    ModelLoadError,
    Names,
    Problem,
    Tensors,
    Trust,
    Variant,
    hookimpl,
)
from neuropod_core.packaging import new_package
from neuropod_core.testing import StandardModel

neuropod_contract = (1, 0)

KINDS: dict[str, type[Sound]] = {}


class Run(Executor):
    """Runs a standard model as it should be run."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.constant = np.array([1, 2, 3], np.float32)
        self.buffer = np.zeros(3, np.float32)

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        try:
            results = self.results({name: array.copy() for name, array in inputs.items()})
        except ValueError as error:
            raise InferenceError(f"the model failed: {error}") from error
        return results if outputs is None else {name: results[name] for name in outputs}

    def results(self, inputs: Tensors) -> Tensors:
        if self.kind == "identity":
            return {f"y{name[1:]}": array for name, array in inputs.items()}
        if self.kind == "add":
            x, y = inputs["x"], inputs["y"]
            return {"sum": x + y, "difference": x - y}
        if self.kind == "in_place":
            inputs["x"] += 1
            return {"y": inputs["x"]}
        if self.kind == "failing":
            return {"y": np.array([2, 2, 2], np.float32) * inputs["x"].reshape(3)}
        self.buffer[:] = inputs["x"]
        return {"y": (self.buffer if self.kind == "buffer" else self.constant).copy()}

    def close(self) -> None:
        self.kind = ""


class Sound(Backend):
    """Opens a standard model; the mutants below differ from it in one thing each."""

    trust: ClassVar[Trust] = Trust.DATA
    run: ClassVar[Callable[[str], Executor]] = Run
    time_limit_s: ClassVar[float] = 60.0

    def __init_subclass__(cls) -> None:
        KINDS[cls.__name__.lower()] = cls

    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]  # as good as an attribute
        return Descriptor(platform=type(self).__name__.lower(), trust=self.trust)

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        if options.device not in ("cpu", "auto"):
            raise DeviceError("there is no such device", remedy="pass device='cpu'")
        return type(self).run(self.kind_of(variant))

    def kind_of(self, variant: Variant) -> str:
        try:
            kind: str = json.loads(variant.artefact("data/model").read_text())["kind"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"is no model: {error}") from error
        return kind


KINDS["sound"] = Sound


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Answer for every platform of this module."""
    return KINDS[platform]()


def write(platform: str, model: StandardModel, problem: Problem, path: Path) -> None:
    """Write a standard model as a package of one platform."""
    with new_package(platform, neuropod_path=path, model_name="m", problem=problem) as new:
        (new.folder / "data").mkdir()
        content = json.dumps({"kind": model.value, "filler": "x" * 200}).encode()
        if platform == "unpickles":
            content = pickle.dumps({"kind": model.value, "filler": "x" * 200})
        (new.folder / "data" / "model").write_bytes(content)
