"""Backends that take memory for theirs which is the caller's or the model's, or that keep it."""

from __future__ import annotations

from typing import Any, ClassVar

from neuropod_core import (
    Names,
    Tensors,
)

from .sound import Run, Sound


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
