"""The conformance suite over again, with every model in a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from neuropod_core.errors import InferenceError
from neuropod_core.model import Neuropod
from neuropod_core.placement import Placement
from neuropod_core.testing._arrays import assert_identical
from neuropod_core.testing._models import StandardModel
from neuropod_core.testing._suite import Packaged, Subject, Suite

__all__ = ["InWorker"]

_SAID = (StandardModel.IN_PLACE, StandardModel.BUFFER, StandardModel.CONSTANT)
_COUNTS = (3, 3, 50_000)
"""Lengths that a model may take: the last one lies beyond what a slot holds by itself."""


class InWorker(Suite):
    """Runs a suite in workers: put it before the suite of the backend, and nothing else.

    ::

        class TestEchoInWorker(InWorker, TestEcho):
            pass

    Every check of the suite is made of models that run in another process, and results and errors there are compared
    with those in this process, bit for bit.

    Attributes
    ----------
    placement
        Where the models run: ``"worker"``, or a `Worker` with settings.
    """

    placement: ClassVar[Placement | str] = "worker"

    def load(self, path: Path, **arguments: Any) -> Neuropod:
        """Load a package with the backend under test, in a worker."""
        return super().load(path, **{"placement": self.placement, **arguments})

    def test_a_worker_gives_what_this_process_gives(self, subject: Subject) -> None:
        with self.load(subject.path, placement="in_process") as here, self.load(subject.path) as there:
            assert there.description["placement"] == "worker"
            for _ in range(3):
                assert_identical(there.infer(subject.inputs), here.infer(subject.inputs))

    @pytest.mark.parametrize("kind", _SAID, ids=lambda kind: kind.value)
    def test_standard_models_give_in_a_worker_what_they_give_here(self, kind: StandardModel, package: Packaged) -> None:
        path, made = package(kind), np.random.default_rng(1)
        counts = _COUNTS if kind is StandardModel.IN_PLACE else _COUNTS[:2]
        with self.load(path, placement="in_process") as here, self.load(path) as there:
            for count in counts:
                x = made.random(count, np.float32)
                assert_identical(there.infer({"x": x}), here.infer({"x": x}))

    def test_a_failure_says_in_a_worker_what_it_says_here(self, package: Packaged) -> None:
        path, wrong = package(StandardModel.FAILING), {"x": np.ones(4, np.float32)}
        with self.load(path, placement="in_process") as here, self.load(path) as there:
            with pytest.raises(InferenceError) as expected:
                here.infer(wrong)
            with pytest.raises(InferenceError) as got:
                there.infer(wrong)

        assert type(got.value) is type(expected.value)
        assert str(got.value) == str(expected.value)

    def test_allocated_inputs_give_the_same(self, subject: Subject, model: Neuropod) -> None:
        allocated = {name: model.allocate(name, array.shape) for name, array in subject.inputs.items()}
        for name, array in subject.inputs.items():
            allocated[name][...] = array

        if not model.stateful:
            assert_identical(model.infer(allocated), model.infer(subject.inputs))
