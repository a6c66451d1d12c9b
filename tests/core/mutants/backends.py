"""A sound backend, and what its author could get wrong: each mutant is one mistake, on a platform of its own."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

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


# -- wrong values


class Transposes(Sound):
    class run(Run):  # noqa: N801 - it takes the place of a function
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            return {
                name: array.T if array.ndim > 1 and array.shape == array.T.shape else array
                for name, array in made.items()
            }


class Swaps(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            return dict(zip(made, reversed(made.values()), strict=True)) if self.kind == "add" else made


class CastsSilently(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            numbers = {
                name: a if a.dtype == object else a.astype(np.float64).astype(a.dtype) for name, a in inputs.items()
            }
            return super().infer(numbers, outputs)


class FlushesNegativeZero(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return {
                n: a if a.dtype in (object, bool) else a + np.zeros((), a.dtype)
                for n, a in super().results(inputs).items()
            }


class IgnoresLayout(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            read = {name: _as_it_lies(array) for name, array in inputs.items()}
            return super().infer(read, outputs)


class DropsEmptyStrings(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            for array in made.values():
                if array.dtype == object and array.ndim:
                    array[array == ""] = " "
            return made


class CutsStringsAtNul(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            return {n: a.astype("U").astype(object) if a.dtype == object and a.size else a for n, a in made.items()} | {
                n: np.array([t.split("\0")[0] for t in a.tolist()], object)
                for n, a in made.items()
                if a.dtype == object and a.ndim == 1
            }


class IgnoresAskedForOutputs(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            return super().infer(inputs, None)


# -- wrong owners


class WritesInputs(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            if self.kind == "in_place" and inputs["x"].flags.writeable:
                inputs["x"][...] += 1
                return {"y": inputs["x"].copy()}
            return super().infer(inputs, outputs)


class ChangesTheDictionary(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            made = super().infer(inputs, outputs)
            for name in list(inputs):
                inputs[name] = inputs[name].copy()
            return made


class KeepsInputs(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            vars(self).setdefault("seen", []).extend(inputs.values())
            return super().infer(inputs, outputs)


class ReturnsInputs(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            if self.kind == "identity" and outputs is None:
                return {f"y{name[1:]}": array for name, array in inputs.items()}
            return super().infer(inputs, outputs)


class ReturnsItsBuffer(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            if self.kind == "buffer":
                self.buffer[:] = inputs["x"]
                return {"y": self.buffer}
            return super().results(inputs)


class ReturnsItsConstant(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return {"y": self.constant} if self.kind == "constant" else super().results(inputs)


class ReturnsReadOnly(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            for array in made.values():
                array.flags.writeable = False
            return made


class CachesResults(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            key = (
                tuple((n, a.tobytes(), a.shape) for n, a in inputs.items()),
                None if outputs is None else tuple(outputs),
            )
            known: dict[Any, Tensors] = vars(self).setdefault("known", {})
            if key not in known:
                known[key] = super().infer(inputs, outputs)
            return dict(known[key])


class Leaks(Sound):
    kept: ClassVar[list[Any]] = []

    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            Leaks.kept.append({name: array.copy() for name, array in made.items()})
            return made


# -- wrong lives


class ClaimsToBeThreadSafe(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            self.inputs = {name: array.copy() for name, array in inputs.items()}
            for _ in range(100):
                pass
            results = self.results({name: array.copy() for name, array in self.inputs.items()})
            return results if outputs is None else {name: results[name] for name in outputs}


class SwallowsErrors(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            try:
                return super().infer(inputs, outputs)
            except InferenceError:
                return {"y": np.zeros(inputs["x"].shape, np.float32)}


class LetsErrorsThrough(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            if self.kind == "failing" and inputs["x"].size != 3:
                raise SystemExit("the framework gives up")
            return super().results(inputs)


class HidesTheCause(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            try:
                return super().infer(inputs, outputs)
            except InferenceError as error:
                raise InferenceError(str(error)) from None


class BreaksAfterAnError(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            if vars(self).get("broken"):
                raise InferenceError("the session is gone")
            try:
                return super().infer(inputs, outputs)
            except InferenceError:
                self.broken = True
                raise


class IsNeverFreed(Sound):
    alive: ClassVar[list[Executor]] = []

    class run(Run):  # noqa: N801
        def __init__(self, kind: str) -> None:
            super().__init__(kind)
            IsNeverFreed.alive.append(self)


class SharesOneModel(Sound):
    only: ClassVar[dict[str, Executor]] = {}

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        made = super().load(variant, options)
        return self.only.setdefault(self.kind_of(variant), made)


class RunsInItsOwnThreadOnly(Sound):
    class run(Run):  # noqa: N801
        def __init__(self, kind: str) -> None:
            super().__init__(kind)
            self.thread = threading.get_ident()

        def results(self, inputs: Tensors) -> Tensors:
            if threading.get_ident() != self.thread:
                raise ValueError("another thread")
            return super().results(inputs)


class TakesAnyDevice(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        return Descriptor(platform="takesanydevice", trust=Trust.DATA, devices=("cpu", "cuda"))

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        del options
        return Run(self.kind_of(variant))


# -- wrong words


class ImportsItsFramework(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        import hypothesis  # Stands for a framework: installed here, and slow to import.

        return Descriptor(platform="importsitsframework", trust=Trust.DATA, framework=(hypothesis.__name__,))


class ChangesTheEnvironment(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        import os

        os.environ["CHANGED_BY_A_PLUGIN"] = str(os.getpid())
        return Descriptor(platform="changestheenvironment", trust=Trust.DATA)


class Prints(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        sys.stderr.write("hello\n")
        return Descriptor(platform="prints", trust=Trust.DATA)


class Unpickles(Sound):
    """Says that its artefacts are data, and unpickles them."""

    def kind_of(self, variant: Variant) -> str:
        try:
            kind: str = pickle.loads(variant.artefact("data/model").read_bytes())["kind"]
        except Exception as error:
            raise ModelLoadError(f"is no model: {error}") from error
        return kind


class NamesAbsentPackagers(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        packagers = {"create_nothing": "json:create_nothing"}
        return Descriptor(platform="namesabsentpackagers", trust=Trust.DATA, packagers=packagers)


class PacksByAbsentKeywords(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        packagers, packs = {"create_json": "json:dumps"}, {"*.json": "create_json:no_such_keyword"}
        return Descriptor(platform="packsbyabsentkeywords", trust=Trust.DATA, packagers=packagers, packs=packs)


class OpensAnything(Sound):
    def kind_of(self, variant: Variant) -> str:
        try:
            return super().kind_of(variant)
        except (ModelLoadError, ValueError):
            return "add"


class LetsLoadErrorsThrough(Sound):
    def kind_of(self, variant: Variant) -> str:
        try:
            return super().kind_of(variant)
        except ModelLoadError:
            raise SystemExit from None


def _as_it_lies(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == object or array.flags.c_contiguous or not array.size:
        return array
    lying: np.ndarray[Any, Any] = array.ravel(order="K").reshape(array.shape)
    return lying
