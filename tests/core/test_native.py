"""Tensors of frameworks, in and out, as their attributes describe them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core import (
    DType,
    Executor,
    InferenceError,
    ModelClosedError,
    Names,
    OptionError,
    Problem,
    TensorMismatchError,
    Tensors,
    load_neuropod,
)
from neuropod_core._native import describe_native, is_on_device, native_dtype, native_shape
from neuropod_core.checks import (
    _InputTwin,
    _native_or_array,
    _symbols,
    input_check,
    native_input_check,
    native_output_check,
)
from neuropod_core.placement._in_process import Serial
from neuropod_core.testing import problems, tensors_for

PAIR = Problem.of({"x": "float32[N, 3]", "y": "float32[N, M]"}, {"z": "float32[N, M]", "w": "string[?]"})
CHIP = (2, 0)  # DLPack's number for CUDA, and the first of its kind.


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.fixture
def path(write: Callable[..., Path], tmp_path: Path) -> Path:
    return write(tmp_path / "m.neuropod")


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING], ids=str)
@pytest.mark.parametrize("prefix", ["", "torch.", "tf.", "a.b."])
def test_element_types_are_known_by_their_names(prefix: str, dtype: DType) -> None:
    by_text = SimpleNamespace(dtype=f"{prefix}{dtype}")
    by_name = SimpleNamespace(dtype=SimpleNamespace(name=f"{prefix}{dtype}"))

    assert native_dtype(by_text) is native_dtype(by_name) is dtype


@pytest.mark.parametrize("dtype", ["torch.complex64", "float8_e4m3fn", "", None, "float32 ", 3], ids=repr)
def test_other_element_types_are_not_known(dtype: Any) -> None:
    assert native_dtype(SimpleNamespace(dtype=dtype)) is None
    assert native_dtype(SimpleNamespace()) is None


@pytest.mark.parametrize(("shape", "lengths"), [((2, np.int64(3)), (2, 3)), ([], ()), (None, None), ((None,), None)])
def test_shapes_are_what_counts_as_ints(shape: Any, lengths: Any) -> None:
    assert native_shape(SimpleNamespace(shape=shape)) == lengths


def test_tensors_on_devices_are_told_apart(lent: Any) -> None:
    assert is_on_device(lent(f32(2), CHIP))
    assert not is_on_device(lent(f32(2)))
    assert not is_on_device(f32(2))
    assert not is_on_device(np.float32(2))
    assert describe_native(lent(f32(2), CHIP)) == "Lent float32[2] on chip:0"
    assert describe_native(lent(f32(2))) == "Lent float32[2]"


def test_native_inputs_pass_as_they_are(lent: Any) -> None:
    given_inputs = {"x": lent(f32(2, 3), CHIP), "y": lent(f32(2, 5))}

    for _ in range(2):  # Their class is new the first time.
        tensors, sizes = native_input_check(PAIR)(given_inputs)
        assert all(tensors[name] is given_inputs[name] for name in given_inputs)
        assert sizes == (2, 5)


def test_the_twin_is_not_asked_for_classes_that_are_known(lent: Any) -> None:
    given_inputs = {"x": lent(f32(2, 3), CHIP), "y": f32(2, 5)}
    native_input_check(PAIR)(given_inputs)

    with mock.patch.object(_InputTwin, "__call__", side_effect=AssertionError):
        assert native_input_check(PAIR)(given_inputs)[0] is given_inputs


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda lent: lent(f32(2), CHIP), "got Lent float32\\[2\\] on chip:0 \\(1 dimensions\\) - at inputs.y"),
        (lambda lent: lent(f32(3, 5), CHIP), "with N=2, got Lent float32\\[3, 5\\] on chip:0"),
        (lambda lent: lent(np.zeros((2, 5)), CHIP), "Lent float64\\[2, 5\\] on chip:0 - at inputs.y; convert it"),
        (lambda lent: lent(np.zeros((2, 5), complex), CHIP), "got Lent lent.complex128\\[2, 5\\]"),
        (lambda lent: lent(np.zeros((2, 5))), "got float64\\[2, 5\\] - at inputs.y"),
        (lambda _: [[1.0]], "got list - at inputs.y"),
        (lambda _: np.zeros((2, 5)), "got float64\\[2, 5\\] - at inputs.y"),
    ],
    ids=str,
)
def test_native_inputs_that_contradict_their_spec_are_refused(value: Any, message: str, lent: Any) -> None:
    with pytest.raises(TensorMismatchError, match=message):
        native_input_check(PAIR)({"x": lent(f32(2, 3), CHIP), "y": value(lent)})


def test_what_is_no_native_tensor_becomes_an_array(lent: Any) -> None:
    tensors, _ = native_input_check(PAIR, "same_kind")(
        {"x": memoryview(bytearray(24)).cast("f", [2, 3]), "y": lent(np.zeros((2, 5)))}
    )

    assert all(type(tensor) is np.ndarray and tensor.dtype == np.float32 for tensor in tensors.values())


def test_native_results_are_checked(lent: Any) -> None:
    check, text = native_output_check(PAIR), np.array(["a"], object)

    for z in (lent(f32(2, 5), CHIP), f32(2, 5)):
        assert check({"z": z, "w": text}, (2, 5))["z"] is z
    for z, message in (
        (lent(f32(2, 4), CHIP), "with N=2, M=5, got Lent float32\\[2, 4\\] on chip:0 - at outputs.z"),
        (lent(np.zeros((2, 5)), CHIP), "got Lent float64\\[2, 5\\] on chip:0 - at outputs.z$"),
        (np.zeros((2, 5)), "got float64\\[2, 5\\] - at outputs.z"),
        (None, "got NoneType - at outputs.z"),
    ):
        with pytest.raises(TensorMismatchError, match=message):
            check({"z": z, "w": text}, (2, 5))
    with pytest.raises(TensorMismatchError, match="expected string\\[\\?\\], got .* - at outputs.w"):
        check({"z": f32(2, 5), "w": lent(f32(1), CHIP)}, (2, 5))
    with pytest.raises(TensorMismatchError, match="got nothing - at outputs.w"):
        check({"z": f32(2, 5)}, (2, 5))
    assert set(native_output_check(PAIR, ["w"])({"z": 3, "w": text}, (2, 5))) == {"w"}


@given(st.data())
def test_arrays_are_judged_by_native_checks_as_by_the_others(data: st.DataObject) -> None:
    problem = data.draw(problems())
    inputs = data.draw(tensors_for(data.draw(st.sampled_from([problem, data.draw(problems())])).inputs))

    def outcome(check: Any) -> object:
        try:
            tensors, sizes = check(inputs)
        except TensorMismatchError as error:
            return str(error)
        return {name: id(array) for name, array in tensors.items()}, sizes

    twin = _InputTwin(problem, _symbols(problem), "no", _native_or_array)
    assert outcome(input_check(problem)) == outcome(native_input_check(problem)) == outcome(twin)


# -- models -----------------------------------------------------------------------------------------------------------


def test_device_tensors_reach_an_executor_that_takes_them(path: Path, calc: Any, lent: Any, x: np.ndarray) -> None:
    got: list[Any] = []

    def note(inputs: Any) -> Any:
        got.append(inputs)
        return {"sum": x, "difference": x}

    calc.takes_native = True
    with load_neuropod(path) as model:
        calc.executors[-1].function = note
        chip, host = lent(x, CHIP), lent(x)
        model.infer({"x": chip, "y": host})
        with pytest.raises(TensorMismatchError, match="got Lent float64\\[2, 3\\] on chip:0 - at inputs.x; convert it"):
            model.infer({"x": lent(x.astype(float), CHIP), "y": x})

    assert got[0]["x"] is chip
    assert type(got[0]["y"]) is np.ndarray
    assert np.shares_memory(got[0]["y"], x)


def test_device_tensors_are_refused_for_an_executor_that_does_not(path: Path, lent: Any, x: np.ndarray) -> None:
    with load_neuropod(path) as model, pytest.raises(TensorMismatchError, match="got Lent - at inputs.x; .*use .host"):
        model.infer({"x": lent(x, CHIP), "y": x})


def test_text_goes_through_the_host(lent: Any) -> None:
    problem = Problem.of({"x": "string[N]"}, {})

    for check in (input_check(problem, takes_native=True), native_input_check(problem)):
        assert check({"x": np.array(["a"])})[0]["x"].tolist() == ["a"]
        with pytest.raises(TensorMismatchError, match="expected string\\[N\\], got Lent"):
            check({"x": lent(f32(1), CHIP)})


@pytest.mark.parametrize("result", ["torch", "NUMPY", None, 3], ids=repr)
def test_result_is_one_of_two(result: Any, path: Path, x: np.ndarray) -> None:
    with load_neuropod(path) as model, pytest.raises(OptionError, match="result is 'numpy' or 'native', not"):
        model.infer({"x": x, "y": x}, result=result)


def test_native_results_without_checks_are_those_asked_for(path: Path, x: np.ndarray) -> None:
    with load_neuropod(path, checks=False) as model:
        assert set(model.infer({"x": x, "y": x}, result="native")) == {"sum", "difference"}
        assert set(model.infer({"x": x, "y": x}, ["sum"], result="native")) == {"sum"}


def test_a_closed_model_gives_no_native_results(path: Path, x: np.ndarray) -> None:
    model = load_neuropod(path)
    model.close()

    with pytest.raises(ModelClosedError, match="load it again"):
        model.infer({"x": x, "y": x}, result="native")


def test_a_foreign_error_of_a_native_call_becomes_ours(path: Path, calc: Any, x: np.ndarray) -> None:
    with load_neuropod(path) as model:
        calc.executors[-1].function = lambda inputs: inputs["absent"]
        with pytest.raises(InferenceError, match="the calc backend raised KeyError"):
            model.infer({"x": x, "y": x}, result="native")


class Plain(Executor):
    """Gives arrays only, one call at a time."""

    thread_safe = False

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        return inputs

    def close(self) -> None:
        pass


class Native(Plain):
    takes_native = True
    infer_native = Plain.infer


def test_an_executor_without_native_results_says_so() -> None:
    for executor in (Plain(), Serial(Plain())):
        assert not executor.takes_native
        with pytest.raises(OptionError, match="no native tensors - at result='native'; leave result out"):
            executor.infer_native({})


def test_one_call_at_a_time_goes_through_to_native_results() -> None:
    executor = Serial(Native())

    assert executor.takes_native
    assert executor.infer_native({"x": 3}) == {"x": 3}
    executor.close()
    with pytest.raises(ModelClosedError):
        executor.infer_native({})
