"""Checks of a model's life: loaded anywhere, called by many, failing, closed, gone."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from neuropod_core.backend import Tensors
from neuropod_core.errors import InferenceError, ModelClosedError
from neuropod_core.model import Neuropod
from neuropod_core.packaging import repack
from neuropod_core.testing._arrays import assert_identical
from neuropod_core.testing._models import StandardModel
from neuropod_core.testing._suite import Opened, Packaged, Subject, Suite
from neuropod_core.testing._threads import in_threads, pausing_at_every_line

_THREADS, _CALLS, _PAUSED = 8, 300, 10
_DELAYS_S = (0.0, 0.001, 0.002, 0.003, 0.005)  # The others are in different places of their calls.
_MOST_CHARACTERS = 4000


class LifeTests(Suite):
    """Many calls, errors, and the end."""

    def test_threads_get_the_answers_of_one(self, opened: Opened) -> None:
        model = opened(StandardModel.ADD)

        def wrong(thread: int) -> list[int]:
            x = np.full((2, 3), thread, np.float32)
            made = [model.infer({"x": x, "y": x + call}) for call in range(_CALLS)]
            with pausing_at_every_line():
                made += [model.infer({"x": x, "y": x + call}) for call in range(_CALLS, _CALLS + _PAUSED)]
            return [
                call
                for call, results in enumerate(made)
                if (results["sum"] != 2 * thread + call).any() or (results["difference"] != -call).any()
            ]

        with _eager_switching():
            assert in_threads(_THREADS, wrong, self.time_limit_s) == [[]] * _THREADS

    def test_threads_get_equal_answers(self, subject: Subject, model: Neuropod) -> None:
        if model.stateful:
            return
        expected = model.infer(subject.inputs)

        def call(_: int) -> None:
            for _ in range(_CALLS):
                assert_identical(model.infer(subject.inputs), expected)

        with _eager_switching():
            in_threads(_THREADS, call, self.time_limit_s)

    def test_a_model_of_another_thread_runs_here(self, subject: Subject) -> None:
        def load(_: int) -> tuple[Neuropod, Tensors]:
            model = self.load(subject.path)
            return model, model.infer(subject.inputs)

        [(model, there)] = in_threads(1, load, self.time_limit_s)

        try:
            if not model.stateful:
                assert_identical(model.infer(subject.inputs), there)
        finally:
            model.close()

    def test_a_failing_call_raises_and_the_next_one_runs(self, opened: Opened) -> None:
        model = opened(StandardModel.FAILING)

        with pytest.raises(InferenceError) as raised:
            model.infer({"x": np.ones(4, np.float32)})

        assert raised.value.__cause__ is not None
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < _MOST_CHARACTERS
        np.testing.assert_array_equal(model.infer({"x": np.ones(3, np.float32)})["y"], [2, 2, 2])

    def test_a_failing_sample_raises_and_the_next_one_runs(self, subject: Subject, model: Neuropod) -> None:
        if subject.failing is None:
            return
        with pytest.raises(InferenceError):
            model.infer(subject.failing)

        model.infer(subject.inputs)

    def test_a_closed_model_says_so(self, subject: Subject, model: Neuropod) -> None:
        model.close()
        model.close()

        with pytest.raises(ModelClosedError, match="closed"):
            model.infer(subject.inputs)

    def test_a_closed_model_is_freed(self, subject: Subject) -> None:
        model = self.load(subject.path)
        model.infer(subject.inputs)
        executor = weakref.ref(model._executor)  # noqa: SLF001 - the suite is of the core

        model.close()
        del model
        gc.collect()

        assert executor() is None

    def test_closing_while_others_call_ends_their_calls(self, subject: Subject) -> None:
        for delay_s in _DELAYS_S:
            model, called = self.load(subject.path), threading.Event()

            def call(
                thread: int, model: Neuropod = model, called: threading.Event = called, s: float = delay_s
            ) -> None:
                if not thread:
                    called.wait(self.time_limit_s)
                    time.sleep(s)
                    return model.close()
                with suppress(InferenceError), pausing_at_every_line():  # Among them that the model is closed.
                    while True:
                        model.infer(subject.inputs)
                        called.set()
                return None

            in_threads(_THREADS, call, self.time_limit_s)

    def test_results_outlive_the_model(self, subject: Subject) -> None:
        with self.load(subject.path) as model:
            results = model.infer(subject.inputs)
            kept = {name: array.copy() for name, array in results.items()}
        del model
        gc.collect()

        assert_identical(results, kept)

    def test_two_models_live_side_by_side(self, subject: Subject) -> None:
        with self.load(subject.path) as first, self.load(subject.path) as second:
            expected = first.infer(subject.inputs)
            first.close()

            assert_identical(second.infer(subject.inputs), expected)

    def test_a_folder_gives_what_the_archive_gives(self, subject: Subject, tmp_path: Path) -> None:
        folder, archive = tmp_path / "folder.neuropod", tmp_path / "archive.neuropod"
        repack(subject.path, folder, package_as_zip=False)
        repack(folder, archive)

        with self.load(subject.path) as one, self.load(folder) as two, self.load(archive) as three:
            expected = one.infer(subject.inputs)
            assert_identical(two.infer(subject.inputs), expected)
            assert_identical(three.infer(subject.inputs), expected)

    def test_warm_up_runs(self, package: Packaged) -> None:
        with self.load(package(StandardModel.ADD)) as model:
            model.warm_up({"N": 2, "M": 3})


class _eager_switching:  # noqa: N801 - a context manager that is called like a function
    """Let threads take turns as often as they can: where state is shared, it shows."""

    def __enter__(self) -> None:
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self._before)
