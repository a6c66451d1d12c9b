from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core import OptionError, Problem, TensorMismatchError, TensorSpec
from neuropod_core.checks import (
    _converted,
    _InputTwin,
    _OutputTwin,
    _symbols,
    _taken,
    checked_call,
    input_check,
    output_check,
)
from neuropod_core.testing import problems, tensors_for

PAIR = Problem.of({"x": "float32[N, 3]", "y": "float32[N, M]"}, {"z": "float32[N, M]", "w": "int64[?]"})
ORIGINAL = Problem(
    (TensorSpec("x", "float32", ("N",), optional=True), TensorSpec("y", "float32", ("N",), optional=True)),
    (TensorSpec("z", "float32", ("N",), optional=True), TensorSpec("w", "float32", ("N",), optional=True)),
    ties_outputs=False,
)


class Attached:
    """Refuses to be an array, and says why, as tensors of frameworks do."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("use .detach()")


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_fitting_inputs_pass_as_they_are() -> None:
    given_inputs = {"x": f32(2, 3), "y": f32(2, 5)}

    arrays, sizes = input_check(PAIR)(given_inputs)

    assert arrays is given_inputs
    assert sizes == (2, 5)


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"y": None}, "inputs.y", "expected float32\\[N, M\\], got NoneType - at inputs.y"),
        ({"x": f32(2, 4)}, "inputs.x", "expected float32\\[N, 3\\] with N=2, got float32\\[2, 4\\] - at inputs.x"),
        ({"y": f32(4, 5)}, "inputs.y", "expected float32\\[N, M\\] with N=2, got float32\\[4, 5\\]"),
        ({"x": f32(2)}, "inputs.x", "\\(2 dimensions\\), got float32\\[2\\] \\(1 dimensions\\)"),
        (
            {"x": np.zeros((2, 3))},
            "inputs.x",
            "got float64\\[2, 3\\] - at inputs.x; convert it by .astype\\('float32'\\)",
        ),
        ({"x": [[1, 2, 3]]}, "inputs.x", "got list - at inputs.x; pass a NumPy array"),
        ({"x": np.array([["a"] * 3] * 2)}, "inputs.x", "got string\\[2, 3\\]"),
        ({"x": np.ma.masked_array(f32(2, 3))}, "inputs.x", "got masked float32\\[2, 3\\]"),
        ({"x": Attached()}, "inputs.x", "got Attached - at inputs.x; use .detach\\(\\)"),
        ({"q": f32(1)}, "inputs.q", "one of the inputs \\(x, y\\), got 'q'"),
        ({3: f32(1)}, "inputs", "one of the inputs \\(x, y\\), got 3"),
    ],
    ids=str,
)
def test_input_that_contradicts_its_spec_is_refused(change: dict[Any, Any], path: str, message: str) -> None:
    with pytest.raises(TensorMismatchError, match=message) as raised:
        input_check(PAIR)({"x": f32(2, 3), "y": f32(2, 5), **change})

    assert raised.value.path == path


def test_a_missing_input_is_named() -> None:
    with pytest.raises(TensorMismatchError, match="expected float32\\[N, M\\], got nothing - at inputs.y"):
        input_check(PAIR)({"x": f32(2, 3)})


@pytest.mark.parametrize("inputs", [None, [f32(2, 3)], "xy", 3], ids=repr)
def test_inputs_are_a_mapping(inputs: Any) -> None:
    with pytest.raises(TensorMismatchError, match="expected tensors by name"):
        input_check(PAIR)(inputs)


def test_any_mapping_is_taken_and_left_alone() -> None:
    given_inputs = OrderedDict[str, Any](x=memoryview(bytearray(24)).cast("f", [2, 3]), y=f32(2, 5))
    before = dict(given_inputs)

    arrays, _ = input_check(PAIR)(given_inputs)

    assert type(arrays) is dict
    assert isinstance(arrays["x"], np.ndarray)
    assert given_inputs == before


def test_a_mapping_that_makes_up_what_is_missing_is_left_alone() -> None:
    given_inputs = defaultdict[str, Any](list, x=f32(2, 3))

    with pytest.raises(TensorMismatchError, match="got nothing - at inputs.y"):
        input_check(PAIR)(given_inputs)
    assert set(given_inputs) == {"x"}


def test_the_other_type_of_64_bits_becomes_the_one_of_the_name() -> None:
    problem = Problem.of({"x": "int64[N]"}, {"y": "int64[N]"})
    for code in "lq":
        x = np.arange(3, dtype=code)

        arrays, sizes = input_check(problem)({"x": x})
        results = output_check(problem)({"y": x}, sizes)

        for array in (arrays["x"], results["y"]):
            assert array.dtype is np.dtype("int64")
            assert np.shares_memory(array, x)


def test_outputs_are_tied_to_inputs() -> None:
    check = output_check(PAIR)

    assert set(check({"z": f32(2, 5), "w": np.zeros(7, np.int64)}, (2, 5))) == {"z", "w"}
    with pytest.raises(
        TensorMismatchError, match="float32\\[N, M\\] with N=2, M=5, got float32\\[3, 5\\] - at outputs.z"
    ):
        check({"z": f32(3, 5), "w": np.zeros(7, np.int64)}, (2, 5))


def test_a_symbol_of_outputs_alone_is_bound_by_the_first_that_has_it() -> None:
    problem = Problem.of({"x": "float32[N]"}, {"a": "float32[K]", "b": "float32[K]"})
    sizes = input_check(problem)({"x": f32(2)})[1]

    assert output_check(problem)({"a": f32(4), "b": f32(4)}, sizes)
    with pytest.raises(TensorMismatchError, match="with K=4, got float32\\[5\\] - at outputs.b"):
        output_check(problem)({"a": f32(4), "b": f32(5)}, sizes)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"z": f32(2, 5)}, "got nothing - at outputs.w; the model did not return it"),
        ({"z": f32(2, 5), "w": np.zeros(1, np.int64), "v": f32(1)}, "one of the outputs \\(z, w\\), got 'v'"),
        ({"z": np.zeros((2, 5)), "w": np.zeros(1, np.int64)}, "got float64\\[2, 5\\] - at outputs.z"),
        ([f32(2, 5)], "expected tensors by name, got list"),
        (None, "expected tensors by name, got NoneType"),
        ({"z": 3, "w": np.zeros(1, np.int64)}, "got int - at outputs.z"),
    ],
    ids=str,
)
def test_a_broken_promise_is_named(results: Any, message: str) -> None:
    with pytest.raises(TensorMismatchError, match=message):
        output_check(PAIR)(results, (2, 5))


def test_only_asked_for_outputs_are_kept() -> None:
    results = {"z": f32(2, 5), "w": np.zeros(1, np.int64), "more": f32(1)}

    assert set(output_check(PAIR, ["z"])(results, (2, 5))) == {"z"}
    assert set(output_check(PAIR, ["z", "z"])(results, (2, 5))) == {"z"}
    assert output_check(PAIR, [])(results, (2, 5)) == {}
    with pytest.raises(TensorMismatchError, match="one of the outputs \\(z, w\\), got 'more'"):
        output_check(PAIR, ["more"])


def test_an_optional_output_that_was_asked_for_must_come() -> None:
    with pytest.raises(TensorMismatchError, match="got nothing - at outputs.w"):
        output_check(ORIGINAL, ["w"])({"z": f32(1)}, (1,))


def test_packages_of_the_original_tie_inputs_only() -> None:
    check, after = input_check(ORIGINAL), output_check(ORIGINAL)

    assert check({})[1] == (None,)
    assert check({"y": f32(4)})[1] == (4,)
    assert after({"z": f32(9), "w": f32(8)}, (4,))
    assert after({}, (4,)) == {}
    with pytest.raises(TensorMismatchError, match="with N=4"):
        check({"x": f32(4), "y": f32(5)})


def test_strings_are_made_canonical() -> None:
    problem = Problem.of({"s": "string[N]"}, {"t": "string[N]"})
    check = input_check(problem)
    canonical = np.array(["a", "ü"], dtype=object)

    assert check({"s": canonical})[0]["s"] is canonical
    for form in (np.array(["a", "ü"]), np.array([b"a", "ü".encode()]), np.array([b"a", "ü"], dtype=object)):
        made = check({"s": form})[0]["s"]
        assert made.dtype == object
        assert made.tolist() == ["a", "ü"]
    for wrong in ([1, 2], ["a", None], ["a", b"\xff"], ["a", "\ud800"]):
        with pytest.raises(TensorMismatchError, match="arrays of str"):
            check({"s": np.array(wrong, dtype=object)})


@pytest.mark.parametrize(
    ("cast", "given_dtype", "taken"),
    [
        ("no", "int32", False),
        ("no", ">f8", True),
        ("safe", "int32", True),
        ("safe", "int64", True),
        ("safe", "uint64", True),
        ("safe", "float32", True),
        ("same_kind", "float64", True),
        ("same_kind", "complex128", False),
    ],
)
def test_types_are_cast_only_when_asked(cast: Any, given_dtype: str, taken: bool) -> None:
    problem = Problem.of({"x": "float64[N]"}, {})
    x = np.array([1, 2], given_dtype)
    check = input_check(problem, cast)

    if taken:
        made = check({"x": x})[0]["x"]
        assert made.dtype == np.float64
        assert made.dtype.isnative
        assert made.tolist() == [1, 2]
    else:
        with pytest.raises(TensorMismatchError):
            check({"x": x})


def test_narrowing_needs_more_than_safe() -> None:
    problem = Problem.of({"x": "float32[N]"}, {})

    with pytest.raises(TensorMismatchError):
        input_check(problem, "safe")({"x": np.zeros(1)})
    assert input_check(problem, "same_kind")({"x": np.zeros(1)})[0]["x"].dtype == np.float32


def test_cast_is_one_of_three() -> None:
    with pytest.raises(OptionError, match="'no', 'safe', 'same_kind', not 'always'"):
        input_check(PAIR, "always")  # type: ignore[arg-type]  # on purpose


def test_a_problem_too_large_to_compile_is_checked_all_the_same() -> None:
    names = [f"x{place}" for place in range(4000)]
    problem = Problem.of(dict.fromkeys(names, "int8[N, M]"), {})
    inputs = dict.fromkeys(names, np.zeros((2, 3), np.int8))

    check = input_check(problem)

    assert check(inputs)[1] == (2, 3)
    with pytest.raises(TensorMismatchError, match="with N=2, M=3, got int8\\[2, 4\\] - at inputs.x7"):
        check({**inputs, "x7": np.zeros((2, 4), np.int8)})


def test_names_of_a_package_do_not_reach_the_generated_code() -> None:
    name = 'x"]; raise SystemExit; ["'
    problem = Problem.of([TensorSpec(name, "int8", ("__import__('os')",))], {})

    assert input_check(problem)({name: np.zeros(2, np.int8)})[1] == (2,)


# -- the straight-line half and its twin agree


@given(st.data())
def test_fitting_tensors_pass_both_halves(data: st.DataObject) -> None:
    problem = data.draw(problems())
    inputs = data.draw(tensors_for(problem.inputs))
    twin = _InputTwin(problem, _symbols(problem), "no", _converted)

    arrays, sizes = input_check(problem)(inputs)
    twins, twin_sizes = twin(inputs)

    assert sizes == twin_sizes
    assert arrays.keys() == twins.keys()
    assert all(twins[name] is arrays[name] for name in arrays)


@given(st.data())
def test_tensors_of_another_problem_are_judged_alike(data: st.DataObject) -> None:
    """What the straight-line half takes, its twin takes; so a refusal never depends on which of the two ran."""
    problem = data.draw(problems())
    inputs = data.draw(tensors_for(data.draw(problems()).inputs))
    sizes = tuple(data.draw(st.one_of(st.none(), st.integers(0, 3))) for _ in _symbols(problem))

    def outcome(check: Any, *arguments: Any) -> object:
        try:
            return {name: id(array) for name, array in dict(check(*arguments)).items()}
        except TensorMismatchError as error:
            return str(error)

    specs = (
        problem.outputs
        if problem.ties_outputs
        else tuple(
            TensorSpec(s.name, s.dtype, tuple(None if isinstance(d, str) else d for d in s.shape), s.optional)
            for s in problem.outputs
        )
    )
    twin = _OutputTwin(specs, _symbols(problem), _taken, some=False)
    assert outcome(output_check(problem), inputs, sizes) == outcome(twin, inputs, sizes)
    first = outcome(lambda tensors: input_check(problem)(tensors)[0], inputs)
    assert first == outcome(
        lambda tensors: _InputTwin(problem, _symbols(problem), "no", _converted)(tensors)[0], inputs
    )


def test_the_twin_is_not_asked_when_all_fits() -> None:
    with mock.patch.object(_InputTwin, "__call__", side_effect=AssertionError):
        input_check(PAIR)({"x": f32(2, 3), "y": f32(2, 5)})
        input_check(ORIGINAL)({"y": f32(2)})


@given(st.data())
def test_a_call_in_one_function_does_what_its_three_steps_do(data: st.DataObject) -> None:
    problem = data.draw(problems())
    sides = [data.draw(st.sampled_from([problem, data.draw(problems())])) for _ in range(2)]
    inputs, results = data.draw(tensors_for(sides[0].inputs)), data.draw(tensors_for(sides[1].outputs))
    seen: list[object] = []

    def execute(arrays: Any) -> Any:
        seen.append({name: id(array) for name, array in arrays.items()})
        return results

    def in_steps(tensors: Any) -> Any:
        arrays, sizes = input_check(problem)(tensors)
        return output_check(problem)(execute(arrays), sizes)

    def outcome(call: Any) -> object:
        seen.clear()
        try:
            return {name: id(array) for name, array in call(inputs).items()}, *seen
        except TensorMismatchError as error:
            return str(error), *seen

    assert outcome(checked_call(problem, execute)) == outcome(in_steps)


@pytest.mark.parametrize("lists", [False, True], ids=["fitting", "converted"])
def test_a_call_in_one_function_ties_its_outputs_to_its_inputs(lists: bool) -> None:
    inputs = OrderedDict(x=f32(2, 3), y=f32(2, 5)) if lists else {"x": f32(2, 3), "y": f32(2, 5)}
    results = {"z": f32(2, 5), "w": np.zeros(7, np.int64)}

    assert checked_call(PAIR, lambda _: results)(inputs) is results
    with pytest.raises(TensorMismatchError, match="with N=2, M=5, got float32\\[3, 5\\] - at outputs.z") as raised:
        checked_call(PAIR, lambda _: {**results, "z": f32(3, 5)})(inputs)
    assert raised.value.__context__ is None


def test_a_call_too_large_to_compile_is_checked_all_the_same() -> None:
    names = [f"x{place}" for place in range(4000)]
    inputs = dict.fromkeys(names, np.zeros((2, 3), np.int8))
    call = checked_call(Problem.of(dict.fromkeys(names, "int8[N, M]"), {"y": "int8[N]"}), lambda _: {"y": wrong})
    wrong = np.zeros(3, np.int8)

    with pytest.raises(TensorMismatchError, match="with N=2, got int8\\[3\\] - at outputs.y"):
        call(inputs)


def test_an_error_of_what_is_called_is_not_taken_for_a_misfit() -> None:
    def execute(_: object) -> Any:
        raise KeyError("of the framework")

    with pytest.raises(KeyError, match="of the framework"):
        checked_call(PAIR, execute)({"x": f32(2, 3), "y": f32(2, 5)})
