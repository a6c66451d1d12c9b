"""A backend of pure NumPy, so that the core is tested with real packages and without a framework."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from neuropod_core import (
    Backend,
    Descriptor,
    Executor,
    InferenceError,
    LoadOptions,
    ModelLoadError,
    Names,
    NativeTensors,
    Problem,
    Tensors,
    Trust,
    Variant,
    hookimpl,
    plugins,
)
from neuropod_core.packaging import new_package

settings.register_profile("unhurried", settings.default, deadline=None)  # Machines have other things to do.
settings.load_profile("unhurried")

ADD = Problem.of(
    {"x": "float32[N, M]", "y": "float32[N, M]"}, {"sum": "float32[N, M]", "difference": "float32[N, M]"}, name="add"
)


def add(inputs: Tensors) -> Tensors:
    return {"sum": inputs["x"] + inputs["y"], "difference": inputs["x"] - inputs["y"]}


def identity(inputs: Tensors) -> Tensors:
    return {f"y{name[1:]}": array.copy() for name, array in inputs.items()}


def in_place(inputs: Tensors) -> Tensors:
    return {"y": inputs["x"] + np.float32(1)}


def constant(inputs: Tensors) -> Tensors:
    del inputs
    return {"y": np.array([1, 2, 3], np.float32)}


def failing(inputs: Tensors) -> Tensors:
    return {"y": np.array([2, 2, 2], np.float32) * inputs["x"]}


FUNCTIONS: dict[str, Callable[[Tensors], Tensors]] = {
    "add": add,
    "buffer": lambda inputs: {"y": inputs["x"].copy()},
    "constant": constant,
    "failing": failing,
    "identity": identity,
    "in_place": in_place,
}


class Lent:
    """A tensor that is no array: it lends the memory of one by DLPack, and names its element type as torch does."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self._array, self._device = array, device
        self.shape, self.dtype, self.device = array.shape, Named(f"lent.{array.dtype.name}"), f"chip:{device[1]}"

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **arguments: Any) -> object:
        if self._device[0] != 1:
            raise BufferError("lies on a device")
        return self._array.__dlpack__(**arguments)

    def __array__(self, *arguments: Any, **named: Any) -> np.ndarray:
        if self._device[0] != 1:
            raise TypeError("lies on a device, use .host()")
        return np.array(self._array, *arguments, **named)


@dataclass(frozen=True)
class Named:
    """An element type that is nothing but its name."""

    title: str

    def __str__(self) -> str:
        return self.title


class Calculation(Executor):
    """Runs one of `FUNCTIONS`."""

    def __init__(self, function: Callable[[Tensors], Tensors]) -> None:
        self.function = function
        self.asked: list[Names] = []
        self.closed = 0

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        self.asked.append(outputs)
        try:
            results = self.function(inputs)
            return results if outputs is None else {name: results[name] for name in outputs}
        except (ValueError, RuntimeError) as error:
            raise InferenceError(f"the calculation failed: {error}") from error

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        results = self.infer(arrays, outputs)
        return {name: array if array.dtype.hasobject else Lent(array) for name, array in results.items()}

    def close(self) -> None:
        self.closed += 1


class CalcBackend(Backend):
    """Opens ``0/data/model.json``, which names a function; `executors` are those that it loaded."""

    descriptor = Descriptor(platform="calc", trust=Trust.GRAPH, options={"delay": "nothing, but it is known"})

    def __init__(self) -> None:
        self.executors: list[Calculation] = []
        self.takes_native = False

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        del options
        try:
            function = FUNCTIONS[json.loads(variant.artefact("data/model.json").read_bytes())["function"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelLoadError("is no calculation", at=str(variant.folder)) from error
        self.executors.append(Calculation(function))
        self.executors[-1].takes_native = self.takes_native
        return self.executors[-1]


def plugin_of(backend: object, contract: object = (1, 0)) -> ModuleType:
    """Make a plugin module that answers with `backend`."""
    module = ModuleType("made_up_plugin")

    @hookimpl
    def neuropod_backend(platform: str) -> object:
        del platform
        return backend

    vars(module).update(neuropod_contract=contract, neuropod_backend=neuropod_backend)
    return module


@pytest.fixture
def make_plugin() -> Callable[..., ModuleType]:
    """Give the function that makes a plugin module of a backend."""
    return plugin_of


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    for variable in ("NEUROPOD_TRUST", plugins.BLOCKED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def calc() -> Iterator[CalcBackend]:
    """Give the registered backend for the platform ``calc``."""
    backend = CalcBackend()
    plugins.register(plugin_of(backend), "calc", "neuropod-calc")
    yield backend
    plugins.unregister("calc")


@pytest.fixture
def lent() -> type[Lent]:
    """Give the class of tensors that are no arrays."""
    return Lent


@pytest.fixture
def write(calc: CalcBackend) -> Callable[..., Path]:
    """Give the function that writes a calculation as a package."""
    del calc

    def package(path: Path, function: str = "add", problem: Problem = ADD, **arguments: object) -> Path:
        with new_package("calc", neuropod_path=path, model_name=function, problem=problem, **arguments) as new:  # type: ignore[arg-type]  # any argument of a packager
            (new.folder / "data").mkdir()
            (new.folder / "data" / "model.json").write_text(json.dumps({"function": function}))
        return path

    return package


@pytest.fixture
def x() -> np.ndarray:
    """Give a ``float32[2, 3]``."""
    return np.arange(6, dtype=np.float32).reshape(2, 3)
