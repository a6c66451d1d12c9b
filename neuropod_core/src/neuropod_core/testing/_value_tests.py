"""Checks of what comes out of a model."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from neuropod_core.backend import Backend, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import NeuropodError, TensorMismatchError
from neuropod_core.model import Neuropod
from neuropod_core.problem import Problem, TensorSpec
from neuropod_core.tensors import object_array
from neuropod_core.testing._arrays import LAYOUTS, TEXTS, assert_close, assert_identical, numbers, operands
from neuropod_core.testing._models import Sample, StandardModel
from neuropod_core.testing._suite import Opened, OpenedAdd, OpenedIdentity, Subject, Suite

_RANKS = (0, 1, 2, 3, 4, 5)
_COMPUTED = [dtype for dtype in DType if dtype not in (DType.STRING, DType.BOOL)]
_LENGTHS = ((1, 2, 3, 2, 1), (0, 2, 1, 3, 1), (3, 0, 2, 1, 2))


class ValueTests(Suite):
    """Results are those of the framework, for every type, rank and memory layout."""

    @pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING], ids=str)
    def test_numbers_come_back_as_they_went_in(self, dtype: DType, backend: Backend, identity: OpenedIdentity) -> None:
        if dtype not in backend.descriptor.dtypes:
            with pytest.raises(NeuropodError):
                identity(dtype, (1,))
            return
        model = identity(dtype, _RANKS)

        for lengths in _LENGTHS:
            given = {f"x{rank}": numbers(dtype, lengths[:rank]) for rank in _RANKS}
            for layout in ("plain", *LAYOUTS):
                laid_out = {name: LAYOUTS.get(layout, np.copy)(array) for name, array in given.items()}
                assert_identical(model.infer(laid_out), {f"y{name[1:]}": array for name, array in given.items()})

    def test_strings_of_one_dimension_come_back(self, backend: Backend, identity: OpenedIdentity) -> None:
        self._check_strings(backend, identity, ranks=(1,))

    def test_strings_of_any_rank_come_back(self, backend: Backend, identity: OpenedIdentity) -> None:
        self._check_strings(backend, identity, ranks=(0, 2))

    def _check_strings(self, backend: Backend, identity: OpenedIdentity, ranks: tuple[int, ...]) -> None:
        if DType.STRING not in backend.descriptor.dtypes:
            with pytest.raises(NeuropodError):
                identity(DType.STRING, ranks)
            return
        model = identity(DType.STRING, ranks)

        for count in (len(TEXTS), 0):
            shapes = {0: (), 1: (count,), 2: (count // 2, 2)}
            given = {f"x{rank}": object_array(TEXTS[: int(np.prod(shapes[rank]))], shapes[rank]) for rank in ranks}
            results = model.infer(given)

            assert_identical(results, {f"y{name[1:]}": array for name, array in given.items()})
            assert all(type(item) is str for array in results.values() for item in array.ravel().tolist())

    @pytest.mark.parametrize("dtype", _COMPUTED, ids=str)
    def test_numbers_are_computed_in_their_own_type(
        self, dtype: DType, backend: Backend, opened_add: OpenedAdd
    ) -> None:
        if dtype not in backend.descriptor.dtypes:
            return
        x, y = operands(dtype)
        kind = f"{dtype}[N, M]"
        problem = Problem.of({"x": kind, "y": kind}, {"sum": kind, "difference": kind}, name="add")

        try:
            results = opened_add(problem).infer({"x": x, "y": y})
        except NeuropodError:
            return  # A framework that does not add such numbers says so, and computes nothing else.

        assert_identical(results, {"sum": x + y, "difference": x - y})

    def test_calls_of_other_sizes_are_apart(self, opened: Opened) -> None:
        model = opened(StandardModel.ADD)
        made = np.random.default_rng(3)

        for shape in ((2, 3), (40, 5), (1, 1), (0, 3), (40, 5), (3, 0), (2, 3), (70, 5)):
            x, y = made.random((2, *shape), np.float32)
            assert_identical(model.infer({"x": x, "y": y}), {"sum": x + y, "difference": x - y})

    def test_an_input_left_out_has_no_value_of_an_earlier_call(self, opened_add: OpenedAdd) -> None:
        kind = "float32[N, M]"
        y = TensorSpec("y", DType.FLOAT32, ("N", "M"), optional=True)
        problem = Problem.of([TensorSpec("x", DType.FLOAT32, ("N", "M")), y], {"sum": kind, "difference": kind})
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        try:
            model = opened_add(problem)
        except NeuropodError:
            return  # A framework whose inputs are never optional refuses to package it.
        alone = _outcome(model, {"x": x})

        for factor in (2, 3):
            with suppress(NeuropodError):
                model.infer({"x": x, "y": x * factor})
            again = _outcome(model, {"x": x})
            assert list(again) == list(alone)
            assert_identical(again, alone)

    def test_results_are_plain_arrays(self, subject: Subject, model: Neuropod) -> None:
        # Of the executor itself, since what is odd about them is made good on the way, at some cost.
        results = model._executor.infer(subject.inputs)  # noqa: SLF001 - the suite is of the core

        assert {type(array) for array in results.values()} == {np.ndarray}
        assert all(array.dtype.isnative for array in results.values())

    def test_results_have_their_names(self, opened: Opened) -> None:
        x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 2, np.float32)

        results = opened(StandardModel.ADD).infer({"x": x, "y": y})

        assert_identical(results, {"sum": x + y, "difference": x - y})

    def test_sample_gives_what_its_author_expects(self, request: pytest.FixtureRequest, subject: Subject) -> None:
        if request.node.callspec.params["subject"] != "sample":
            return
        sample: Sample = request.getfixturevalue("sample")
        with self.load(subject.path) as model:
            assert_close(model.infer(sample.inputs), sample.outputs, sample.rtol, sample.atol)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_memory_layout_is_taken(self, layout: str, subject: Subject, model: Neuropod) -> None:
        laid_out = {name: LAYOUTS[layout](array) for name, array in subject.inputs.items()}

        assert_identical(model.infer(laid_out), model.infer(subject.inputs))

    def test_only_asked_for_outputs_are_returned(self, subject: Subject, model: Neuropod) -> None:
        whole = model.infer(subject.inputs)
        for name in whole:
            assert_identical(model.infer(subject.inputs, [name]), {name: whole[name]})
            # The executor itself, since what it returns beyond that is dropped on the way.
            assert set(model._executor.infer(subject.inputs, [name])) == {name}  # noqa: SLF001 - the suite is of the core

        with pytest.raises(TensorMismatchError, match="one of the outputs"):
            model.infer(subject.inputs, ["absent"])

    def test_several_outputs_can_be_asked_for_in_any_order(self, subject: Subject, model: Neuropod) -> None:
        whole = model.infer(subject.inputs)

        for names in (list(whole), list(whole)[::-1], []):
            assert_identical(model.infer(subject.inputs, names), {name: whole[name] for name in names})

    def test_equal_calls_give_equal_results(self, subject: Subject, model: Neuropod) -> None:
        first = model.infer(subject.inputs)

        if not model.stateful:
            for _ in range(10):
                assert_identical(model.infer(subject.inputs), first)


def _outcome(model: Neuropod, inputs: Tensors) -> Tensors:
    """Give the results of a call, or none if the model refuses it."""
    try:
        return model.infer(inputs)
    except NeuropodError:
        return {}
