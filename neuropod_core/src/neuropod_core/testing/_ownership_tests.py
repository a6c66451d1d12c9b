"""Checks of whose memory it is: inputs are the caller's, results too, and the model's state is the model's."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from neuropod_core.dtypes import DType
from neuropod_core.model import Neuropod
from neuropod_core.testing._arrays import aligned, assert_identical, copies, scribble
from neuropod_core.testing._models import StandardModel
from neuropod_core.testing._suite import Opened, OpenedIdentity, Subject, Suite
from neuropod_core.testing._surroundings import resident_bytes

_SIZES = (3, 1000, 100_000)
_MIB = 1 << 20


class OwnershipTests(Suite):
    """No call changes what the caller holds, and nothing that the caller does changes a later call."""

    def test_inputs_are_never_written(self, opened: Opened) -> None:
        model = opened(StandardModel.IN_PLACE)
        for size in _SIZES:
            for place in (aligned, np.copy):
                x = place(np.arange(size, dtype=np.float32))

                y = model.infer({"x": x})["y"]

                np.testing.assert_array_equal(x, np.arange(size))
                np.testing.assert_array_equal(y, np.arange(size) + 1)

    def test_the_callers_tensors_stay_as_they_are(self, subject: Subject, model: Neuropod) -> None:
        given = {name: aligned(array) for name, array in subject.inputs.items()}
        held = dict(given)

        model.infer(given)

        assert list(given) == list(held)
        assert all(given[name] is held[name] for name in held)
        assert_identical(given, subject.inputs)

    def test_inputs_are_not_kept(self, subject: Subject, model: Neuropod) -> None:
        given = copies(subject.inputs)
        model.infer(given)
        before = {name: sys.getrefcount(array) for name, array in given.items()}

        for _ in range(5):
            model.infer(given)
        gc.collect()

        kept = [name for name, array in given.items() if sys.getrefcount(array) > before[name]]
        assert not kept, f"the executor still holds the inputs {kept} after the call"

    def test_what_the_caller_writes_later_changes_no_result(self, subject: Subject, model: Neuropod) -> None:
        given = {name: aligned(array) for name, array in subject.inputs.items()}
        results = model.infer(given)
        kept = copies(results)

        scribble(given)

        assert_identical(results, kept)

    def test_results_share_no_memory_with_inputs(self, identity: OpenedIdentity) -> None:
        model = identity(DType.FLOAT32, (1, 2))
        for size in _SIZES:
            given = {"x1": aligned(np.ones(size, np.float32)), "x2": aligned(np.ones((size, 2), np.float32))}

            results = model.infer(given)

            assert not any(np.shares_memory(a, b) for a in results.values() for b in given.values())
            assert all(array.flags.writeable for array in results.values())

    def test_results_are_writable_and_apart(self, subject: Subject, model: Neuropod) -> None:
        arrays = list(model.infer(subject.inputs).values())

        assert all(array.flags.writeable for array in arrays)
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])

    def test_what_the_caller_writes_into_results_changes_no_later_call(self, subject: Subject, model: Neuropod) -> None:
        if model.stateful:
            return
        first = model.infer(subject.inputs)
        kept = copies(first)

        scribble(first)
        second = model.infer(subject.inputs)
        assert_identical(second, kept)

        third = model.infer(subject.inputs)
        scribble(third)
        assert_identical(second, kept)

    @pytest.mark.parametrize("kind", [StandardModel.BUFFER, StandardModel.CONSTANT], ids=lambda kind: kind.value)
    def test_results_belong_to_the_caller(self, kind: StandardModel, opened: Opened) -> None:
        model = opened(kind)
        first = model.infer({"x": np.array([1, 2, 3], np.float32)})["y"]
        kept = first.copy()

        second = model.infer({"x": np.array([7, 8, 9], np.float32)})["y"]
        again = second.copy()
        np.testing.assert_array_equal(first, kept)

        first += 100
        second += 100
        third = model.infer({"x": np.array([7, 8, 9], np.float32)})["y"]
        np.testing.assert_array_equal(third, again)

    def test_calls_leak_nothing(self, opened: Opened) -> None:
        model = opened(StandardModel.ADD)
        x = np.ones((512, 512), np.float32)
        for _ in range(20):
            model.infer({"x": x, "y": x})
        before = resident_bytes()

        for _ in range(100):
            model.infer({"x": x, "y": x})

        # A hundred calls make 200 MiB of results; what stays is the allocator's slack.
        assert resident_bytes() - before < 50 * _MIB
