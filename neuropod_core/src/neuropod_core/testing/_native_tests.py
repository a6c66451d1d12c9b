"""Checks of native results, for backends whose executors give them; the others must say that they have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neuropod_core.backend import Array, Backend, NativeTensors, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelClosedError, OptionError, TensorMismatchError
from neuropod_core.model import Neuropod
from neuropod_core.placement import _in_process
from neuropod_core.tensors import as_array
from neuropod_core.testing._arrays import aligned, assert_identical, copies, numbers, scribble
from neuropod_core.testing._models import StandardModel
from neuropod_core.testing._suite import Opened, OpenedIdentity, Subject, Suite

_RANKS = (0, 1, 3)


class NativeTests(Suite):
    """Native results are those of `infer`, checked alike, and the caller's own."""

    def to_numpy(self, tensor: Any) -> Array:
        """Give a native tensor as an array; override it for tensors that NumPy cannot view."""
        array = as_array(tensor)
        assert array is not None, f"override to_numpy: NumPy cannot view {type(tensor).__name__}"
        return array

    def test_native_results_equal_arrays(self, subject: Subject, model: Neuropod) -> None:
        if not gives_native(model):
            with pytest.raises(OptionError, match="result"):
                model.infer(subject.inputs, result="native")
            return
        results = model.infer(subject.inputs, result="native")

        assert_described(results, model)
        if not model.stateful:
            assert_identical(self._arrays(results), model.infer(subject.inputs))

    def test_native_numbers_come_back_as_they_went_in(self, backend: Backend, identity: OpenedIdentity) -> None:
        for dtype in sorted(backend.descriptor.dtypes - {DType.STRING}):
            model = identity(dtype, _RANKS)
            if not gives_native(model):
                return
            for lengths in ((2, 3, 1), (0, 1, 2)):
                given = {f"x{rank}": numbers(dtype, lengths[:rank]) for rank in _RANKS}
                expected = {f"y{name[1:]}": array for name, array in given.items()}

                results = model.infer(given, result="native")
                assert_identical(self._arrays(results), expected)

                # What came out goes in again, wherever it lies; for arrays too, where it lies on the host.
                again = {f"x{name[1:]}": tensor for name, tensor in results.items()}
                assert_identical(self._arrays(model.infer(again, result="native")), expected)
                assert_identical(model.infer(again), expected)

    def test_native_results_are_those_asked_for(self, subject: Subject, model: Neuropod) -> None:
        if not gives_native(model):
            return
        whole = self._arrays(model.infer(subject.inputs, result="native"))

        for names in ([], *([name] for name in whole), list(whole)[::-1]):
            results = model.infer(subject.inputs, names, result="native")
            assert set(results) == set(names)
            if not model.stateful:
                assert_identical(self._arrays(results), {name: whole[name] for name in names})
            assert set(model._executor.infer_native(subject.inputs, names)) == set(names)  # noqa: SLF001 - the suite is of the core

    def test_native_calls_are_held_to_the_problem(self, subject: Subject, model: Neuropod) -> None:
        if not gives_native(model):
            return
        name, array = next(iter(subject.inputs.items()))
        wrong: list[tuple[dict[str, Any], str]] = [
            ({name: array.astype(object if array.dtype != object else np.int8)}, f"inputs.{name}"),
            ({name: array[None]}, f"inputs.{name}"),
            ({"absent": array}, "inputs.absent"),
        ]

        for change, path in wrong:
            with pytest.raises(TensorMismatchError) as raised:
                model.infer({**subject.inputs, **change}, result="native")
            assert raised.value.path == path
        with pytest.raises(TensorMismatchError, match="one of the outputs"):
            model.infer(subject.inputs, ["absent"], result="native")

    def test_native_results_outlive_what_the_caller_writes(self, subject: Subject, model: Neuropod) -> None:
        if not gives_native(model):
            return
        given = {name: aligned(array) for name, array in subject.inputs.items()}
        results = model.infer(given, result="native")
        kept = copies(self._arrays(results))

        scribble(given)
        model.infer(subject.inputs, result="native")

        assert_identical(self._arrays(results), kept)

    @pytest.mark.parametrize("kind", [StandardModel.BUFFER, StandardModel.CONSTANT], ids=lambda kind: kind.value)
    def test_native_results_belong_to_the_caller(self, kind: StandardModel, opened: Opened) -> None:
        model = opened(kind)
        if not gives_native(model):
            return
        x = np.array([7, 8, 9], np.float32)
        first = model.infer({"x": np.array([1, 2, 3], np.float32)}, result="native")
        kept = copies(self._arrays(first))

        second = model.infer({"x": x}, result="native")
        expected = copies(self._arrays(second))
        assert_identical(self._arrays(first), kept)

        for tensors in (first, second):
            scribble({name: array for name, array in self._arrays(tensors).items() if array.flags.writeable})
        assert_identical(self._arrays(model.infer({"x": x}, result="native")), expected)

    def test_native_results_outlive_the_model(self, subject: Subject) -> None:
        model = self.load(subject.path)
        if not gives_native(model):
            model.close()
            return
        results = model.infer(subject.inputs, result="native")
        kept = copies(self._arrays(results))

        model.close()

        with pytest.raises(ModelClosedError):
            model.infer(subject.inputs, result="native")
        assert_identical(self._arrays(results), kept)

    def _arrays(self, tensors: NativeTensors) -> Tensors:
        return {name: self.to_numpy(tensor) for name, tensor in tensors.items()}


def gives_native(model: Neuropod) -> bool:
    """Tell whether the executor of a model has an `infer_native` of its own."""
    return _in_process.gives_native(model._executor)  # noqa: SLF001 - the suite is of the core


def assert_described(results: NativeTensors, model: Neuropod) -> None:
    """Check that native tensors say of themselves what their specs say."""
    for spec in model.outputs:
        tensor = results[spec.name]
        assert len(tensor.shape) == len(spec.shape), spec
        assert str(getattr(tensor.dtype, "name", tensor.dtype)).endswith(
            "object" if spec.dtype is DType.STRING else spec.dtype.value
        ), spec
        assert hasattr(tensor, "__dlpack__"), spec
