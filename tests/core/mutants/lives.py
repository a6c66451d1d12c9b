"""Backends that do not live as they should: in threads, after errors, at the end."""

from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np

from neuropod_core import (
    Descriptor,
    Executor,
    InferenceError,
    LoadOptions,
    Names,
    Tensors,
    Trust,
    Variant,
)

from .sound import Run, Sound


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


class DeadlocksInThreads(Sound):
    time_limit_s = 3.0

    class run(Run):  # noqa: N801
        busy = threading.Lock()

        def results(self, inputs: Tensors) -> Tensors:
            if not self.busy.acquire(blocking=False):
                threading.Event().wait()
            try:
                for _ in range(200):
                    pass
                return super().results(inputs)
            finally:
                self.busy.release()


class HangsInClose(Sound):
    time_limit_s = 3.0

    class run(Run):  # noqa: N801
        def close(self) -> None:
            threading.Event().wait()


class RaisesInClose(Sound):
    class run(Run):  # noqa: N801
        def close(self) -> None:
            raise ValueError("the session is in use")
