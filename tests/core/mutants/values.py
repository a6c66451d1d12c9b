"""Backends whose results are wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from neuropod_core import (
    Names,
    Tensors,
)

from .sound import Run, Sound


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


class ComputesInFloat32(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            if self.kind != "add" or inputs["x"].dtype != np.float64:
                return super().results(inputs)
            made = super().results({name: array.astype(np.float32) for name, array in inputs.items()})
            return {name: array.astype(np.float64) for name, array in made.items()}


class RoundsToFloat32(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            return {n: a.astype("f4").astype("f8") if a.dtype == np.float64 else a for n, a in made.items()}


class ComputesIntegersInFloat64(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            if self.kind != "add" or inputs["x"].dtype.kind not in "iu":
                return super().results(inputs)
            made = super().results({name: array.astype(np.float64) for name, array in inputs.items()})
            return {name: array.astype(inputs["x"].dtype) for name, array in made.items()}


class FlushesSubnormals(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            for array in made.values():
                if array.dtype in (np.float32, np.float64) and array.ndim:
                    array[np.abs(array) < np.finfo(array.dtype).tiny] *= 0
            return made


class RemembersLeftOutInputs(Sound):
    """Fills a request of its own, and sends it again."""

    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            pooled: Tensors = vars(self).setdefault("pooled", {})
            pooled.update({name: array.copy() for name, array in inputs.items()})
            return super().infer(pooled, outputs)


class CachesByAddress(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            key = (*map(id, inputs.values()), *(a.shape for a in inputs.values()), tuple(outputs or ()))
            known: dict[Any, Tensors] = vars(self).setdefault("known", {})
            known.setdefault(key, super().infer(inputs, outputs))
            return {name: array.copy() for name, array in known[key].items()}


class PlansForTheFirstShape(Sound):
    """Computes as many elements as the first call had, and leaves the rest at zero."""

    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            if self.kind == "add":
                planned = vars(self).setdefault("planned", made["sum"].size)
                for array in made.values():
                    array.reshape(-1)[planned:] = 0
            return made


class CachesByShape(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            if self.kind != "add":
                return made
            kept: dict[Any, Tensors] = vars(self).setdefault("kept", {})
            stale = kept.setdefault(inputs["x"].shape, made)
            rows = slice(8, None)  # Only what lies beyond the first rows is stale.
            for name, array in made.items():
                array[rows] = stale[name][rows]
            return made


class NormalizesText(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return _mapped(super().results(inputs), lambda text: unicodedata.normalize("NFC", text))


class StripsTrailingNuls(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return _mapped(super().results(inputs), lambda text: text.rstrip("\0"))


class StripsTheByteOrderMark(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return _mapped(super().results(inputs), lambda text: text.removeprefix("\ufeff"))


class TranslatesLineEnds(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return _mapped(super().results(inputs), lambda text: text.replace("\r\n", "\n"))


class CutsLongText(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return _mapped(super().results(inputs), lambda text: text[:65535])


class SwapsBytes(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            return {n: a.astype(a.dtype.newbyteorder(">")) if a.dtype == np.float32 else a for n, a in made.items()}


class ReturnsASubclass(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            return {name: array.view(_Subclass) for name, array in super().results(inputs).items()}


class DropsEmptyBatches(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            made = super().results(inputs)
            return {name: array if array.size else array.reshape(-1) for name, array in made.items()}


class RefusesEmptyBatches(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            if self.kind == "add" and not inputs["x"].size:
                raise ValueError("nothing to do")
            return super().results(inputs)


class _Subclass(np.ndarray[Any, Any]):
    """An array that is something else as well."""


def _as_it_lies(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == object or array.flags.c_contiguous or not array.size:
        return array
    lying: np.ndarray[Any, Any] = array.ravel(order="K").reshape(array.shape)
    return lying


def _mapped(results: Tensors, change: Callable[[str], str]) -> Tensors:
    made = {}
    for name, array in results.items():
        made[name] = array
        if array.dtype == object:
            made[name] = np.empty(array.shape, object)
            made[name].ravel()[...] = [change(text) for text in array.ravel().tolist()]
    return made
