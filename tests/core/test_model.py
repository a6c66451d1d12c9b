from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import (
    Executor,
    InferenceError,
    ModelClosedError,
    Names,
    Neuropod,
    OptionError,
    PackageError,
    PackageIntegrityError,
    ResultMismatchError,
    TensorMismatchError,
    Tensors,
    load_neuropod,
)
from neuropod_core.placement._in_process import Serial

Write = Callable[..., Path]


@pytest.fixture
def path(write: Write, tmp_path: Path) -> Path:
    return write(tmp_path / "m.neuropod")


def test_the_executor_is_told_what_is_asked_for(path: Path, calc: Any, x: np.ndarray) -> None:
    with load_neuropod(path) as model:
        assert set(model.infer({"x": x, "y": x}, ("sum",))) == {"sum"}
        assert set(model.infer({"x": x, "y": x})) == {"sum", "difference"}
        assert model.infer({"x": x, "y": x}, []) == {}
        for names in (iter(["sum"]), {"sum"}, {"sum": 1}.keys(), np.array(["sum"])):
            assert set(model.infer({"x": x, "y": x}, names)) == {"sum"}  # type: ignore[call-overload]  # kindly taken
    assert calc.executors[-1].asked == [("sum",), None, (), *[("sum",)] * 4]


@pytest.mark.parametrize("outputs", ["sum", b"sum", [3], ["sum", None], 7], ids=repr)
def test_what_is_asked_for_are_names(outputs: Any, path: Path, x: np.ndarray) -> None:
    with load_neuropod(path) as model, pytest.raises(TensorMismatchError, match="a sequence of names"):
        model.infer({"x": x, "y": x}, outputs)


def test_without_checks_only_what_is_asked_for_comes(path: Path, x: np.ndarray) -> None:
    with load_neuropod(path, checks=False) as model:
        assert set(model.infer({"x": x, "y": x}, ["sum"])) == {"sum"}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda way: way.__name__)
def test_a_loaded_model_goes_nowhere(way: Callable[[Any], Any], path: Path) -> None:
    with load_neuropod(path) as model, pytest.raises(OptionError, match="send the path of the package, and load it"):
        way(model)


def test_a_foreign_error_becomes_ours(path: Path, calc: Any, x: np.ndarray) -> None:
    with load_neuropod(path) as model:
        calc.executors[-1].function = lambda inputs: inputs["absent"]
        with pytest.raises(InferenceError, match="the calc backend raised KeyError: 'absent'") as raised:
            model.infer({"x": x, "y": x})
    assert isinstance(raised.value.__cause__, KeyError)


def test_an_executor_that_is_not_safe_is_called_by_one_thread_at_a_time(path: Path, calc: Any, x: np.ndarray) -> None:
    calc_class = type(calc)
    loads = calc_class.load
    inside, most = threading.Semaphore(1), []

    def crowded(inputs: Any) -> Any:
        most.append(inside.acquire(blocking=False))
        try:
            return {"sum": inputs["x"], "difference": inputs["x"]}
        finally:
            inside.release()

    def load(self: Any, variant: Any, options: Any) -> Any:
        executor = loads(self, variant, options)
        type(executor).thread_safe = False
        executor.function = crowded
        return executor

    calc_class.load = load
    try:
        with load_neuropod(path) as model:
            threads = [
                threading.Thread(target=lambda: [model.infer({"x": x, "y": x}) for _ in range(200)]) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        calc_class.load = loads
        type(calc.executors[-1]).thread_safe = True
    assert len(most) == 1600
    assert all(most)


class Single(Executor):
    """Takes one call at a time, and none after it was closed."""

    closed = False

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        assert not self.closed
        return inputs

    def close(self) -> None:
        self.closed = True


def test_a_call_that_waited_for_its_turn_while_the_model_was_closed_says_so() -> None:
    executor = Serial(Single())
    executor.close()

    with pytest.raises(ModelClosedError, match="the model is closed"):
        executor.infer({})


def test_closing_frees_the_executor_and_is_harmless_again(path: Path, calc: Any, x: np.ndarray) -> None:
    model = load_neuropod(path)
    executor = weakref.ref(calc.executors.pop())
    model.close()
    model.close()
    gc.collect()

    assert executor() is None
    with pytest.raises(ModelClosedError, match="the model is closed; load it again"):
        model.infer({"x": x, "y": x})


@pytest.fixture
def stuck(path: Path, calc: Any, monkeypatch: pytest.MonkeyPatch) -> Neuropod:
    """Load a model whose backend fails to let it go."""
    model = load_neuropod(path)

    def close() -> None:
        raise ValueError("the device is gone")

    monkeypatch.setattr(calc.executors[-1], "close", close)
    return model


def test_a_backend_that_fails_to_close_says_so_in_our_words(stuck: Neuropod) -> None:
    with pytest.raises(InferenceError, match="calc backend raised ValueError: the device is gone") as raised:
        stuck.close()

    assert isinstance(raised.value.__cause__, ValueError)
    stuck.close()
    with pytest.raises(ModelClosedError):
        stuck.infer({})


def test_a_backend_that_fails_to_close_hides_no_error_of_the_block(
    stuck: Neuropod, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyError, match="mine"), stuck:
        raise KeyError("mine")

    assert "could not be closed" in caplog.text


def test_a_model_that_is_dropped_is_freed_at_once(path: Path, calc: Any) -> None:
    model = load_neuropod(path)
    executor = weakref.ref(calc.executors.pop())
    gc.disable()
    try:
        del model
        assert executor() is None
    finally:
        gc.enable()


def test_warm_up_runs_once_on_zeros_or_on_the_test_data(write: Write, tmp_path: Path, calc: Any, x: np.ndarray) -> None:
    plain = write(tmp_path / "plain.neuropod")
    tested = write(tmp_path / "tested.neuropod", test_input_data={"x": x, "y": x})
    shapes: list[Any] = []

    def note(inputs: Any) -> Any:
        shapes.append(inputs["x"].shape)
        return {"sum": inputs["x"], "difference": inputs["x"]}

    for path, sizes in ((plain, None), (plain, {"N": 4}), (tested, None), (tested, {"N": 1, "M": 2})):
        with load_neuropod(path) as model:
            calc.executors[-1].function = note
            model.warm_up(sizes)

    assert shapes == [(1, 1), (4, 1), (2, 3), (1, 2)]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"Q": 2}, "no symbols \\['Q'\\] - at sizes"),
        ({"N": -1}, "no array has such lengths"),
        ({"N": "many"}, "no array has such lengths"),
        ({"N": 2**62}, "no array has such lengths"),
    ],
    ids=str,
)
def test_warm_up_names_sizes_that_cannot_be(sizes: Any, message: str, path: Path) -> None:
    with load_neuropod(path) as model, pytest.raises(OptionError, match=message):
        model.warm_up(sizes)


def test_test_runs_the_packaged_data(write: Write, tmp_path: Path, calc: Any, x: np.ndarray) -> None:
    path = write(tmp_path / "m.neuropod", test_input_data={"x": x, "y": x}, test_expected_out={"sum": x + x})

    with load_neuropod(path) as model:
        assert model.test() == {"sum": 0.0}
        calc.executors[-1].function = lambda inputs: {"sum": inputs["x"], "difference": inputs["x"]}
        with pytest.raises(ResultMismatchError, match="off by up to 5\\) - at outputs.sum") as raised:
            model.test()
    assert raised.value.largest_difference == 5


def test_test_runs_inputs_for_which_nothing_is_expected(write: Write, tmp_path: Path, calc: Any, x: np.ndarray) -> None:
    path = write(tmp_path / "m.neuropod", test_input_data={"x": x, "y": x}, test_expected_out={})

    with load_neuropod(path) as model:
        assert model.test() == {}
    assert calc.executors[-1].asked == [None]


def test_test_needs_packaged_data(path: Path) -> None:
    with load_neuropod(path) as model, pytest.raises(PackageError, match="has no test data .*; package it with"):
        model.test()


def test_a_loaded_model_keeps_no_file_open(path: Path) -> None:
    with load_neuropod(path):
        opened = {item.resolve() for item in Path("/proc/self/fd").iterdir()}
    assert path not in opened


def test_test_data_is_read_from_the_package_that_was_loaded(write: Write, tmp_path: Path, x: np.ndarray) -> None:
    path = write(tmp_path / "m.neuropod", test_input_data={"x": x, "y": x})
    with load_neuropod(path) as model:
        path.write_bytes(path.read_bytes())
        with pytest.raises(PackageIntegrityError, match="one that was changed since"):
            model.test()
