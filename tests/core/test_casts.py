"""What `cast` converts, and that nothing is lost by it in silence."""

from __future__ import annotations

from decimal import Decimal
from math import isfinite, isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuropod_core import DType, OptionError, Problem, TensorMismatchError, TensorSpec
from neuropod_core.checks import input_check, native_input_check
from neuropod_core.errors import shown
from neuropod_core.testing import tensors

FLOATS = {DType.BFLOAT16: 8, DType.FLOAT16: 11, DType.FLOAT32: 24, DType.FLOAT64: 53}
INTS = [dtype for dtype in DType if dtype.value.startswith(("int", "uint"))]
NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]


def taken(notation: str, value: Any, cast: Any = "safe") -> np.ndarray:
    array: np.ndarray = input_check(Problem.of({"x": notation}, {}), cast)({"x": value})[0]["x"]
    return array


@pytest.mark.parametrize(
    ("notation", "value", "expected"),
    [
        ("float32[]", 3, np.float32(3)),
        ("float32[]", 0.1, np.float32(0.1)),
        ("int8[]", -128, np.int8(-128)),
        ("bool[]", True, np.True_),
        ("string[]", "text", np.array("text", object)),
        ("float32[N]", [1, 2.5], np.array([1, 2.5], np.float32)),
        ("float32[N]", (1, 2), np.array([1, 2], np.float32)),
        ("float64[N, M]", [(1, 2), [3, 4]], np.array([[1, 2], [3, 4]], np.float64)),
        ("float16[N]", [float("inf"), float("nan")], np.array([np.inf, np.nan], np.float16)),
        ("uint64[N]", [2**64 - 1, 0], np.array([2**64 - 1, 0], np.uint64)),
        ("string[N]", ["a", ""], np.array(["a", ""], object)),
        ("int64[N]", [], np.zeros(0, np.int64)),
        ("int64[N, 3]", [], np.zeros((0, 3), np.int64)),
        ("int64[N, M]", [[], []], np.zeros((2, 0), np.int64)),
        ("float32[N]", [np.float32(1), np.float32(2)], np.array([1, 2], np.float32)),
        ("float32[N, M]", [np.zeros(3, np.int16), np.ones(3, np.int16)], np.array([[0] * 3, [1] * 3], np.float32)),
        ("float32[N, 1, M]", [[np.ones(2, np.float32)]], np.ones((1, 1, 2), np.float32)),
        ("string[N]", [np.str_("a"), np.str_("b")], np.array(["a", "b"], object)),
    ],
    ids=repr,
)
def test_plain_values_become_arrays_of_their_spec(notation: str, value: Any, expected: Any) -> None:
    for check in (input_check, native_input_check):
        array = check(Problem.of({"x": notation}, {}), "safe")({"x": value})[0]["x"]
        assert type(array) is np.ndarray
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("notation", "value", "message"),
    [
        ("float32[N]", 3, "expected float32\\[N\\] \\(1 levels of lists\\), got 3 - at inputs.x"),
        ("float32[N]", [[1]], "expected at most 1 levels of lists, got more - at inputs.x"),
        ("float32[]", [1], "expected at most 0 levels of lists, got more"),
        ("float32[N, M]", [1, 2], "expected float32\\[N, M\\] \\(2 levels of lists\\), got 1 levels"),
        ("int64[N, M]", [[1, 2], [3]], "a list of 2 like the one before, got a list of 1 - at inputs.x\\[1\\]"),
        ("int64[N, M]", [[1, 2], 3], "a list of 2 like the one before, got 3 - at inputs.x\\[1\\]"),
        ("int64[N, M]", [[1, 2], [3, [4]]], "an int from .*, got \\[4\\] - at inputs.x\\[1\\]\\[1\\]"),
        ("uint8[N]", [1, 300], "an int from 0 to 255 \\(uint8\\[N\\]\\), got 300 - at inputs.x\\[1\\]"),
        ("uint8[N]", [-1], "an int from 0 to 255 \\(uint8\\[N\\]\\), got -1"),
        ("int64[N]", [2**63], "got 9223372036854775808"),
        ("int64[N]", [1.0], "an int from .*, got 1.0"),
        ("int64[N]", [True], "an int from .*, got True"),
        ("int64[N]", [1, None], "an int from .*, got None - at inputs.x\\[1\\]"),
        ("int64[N]", ["1"], "an int from .*, got '1'"),
        ("float32[N]", [None], "a number \\(float32\\[N\\]\\), got None"),
        ("float32[N]", ["nan"], "a number \\(float32\\[N\\]\\), got 'nan'"),
        ("float32[N]", [True], "a number \\(float32\\[N\\]\\), got True"),
        ("float32[N]", [Decimal(1)], "a number .*, got Decimal"),
        ("float32[N]", [1j], "a number .*, got 1j"),
        ("float32[N]", [1.0, 1e39], "a number in the range of float32 .*, got 1e\\+39 - at inputs.x\\[1\\]"),
        (
            "float32[N]",
            [2**24 + 1],
            "an int that float32 holds exactly .*, got 16777217 .*; write 16777217.0 to have it",
        ),
        ("float64[N]", [10**400], "a number in the range of float64"),
        ("int64[N]", [10**5000], "an int from .*, got a value of type int"),  # Of more digits than Python writes.
        ("bool[N]", [1], "True or False \\(bool\\[N\\]\\), got 1"),
        ("string[N]", "text", "expected string\\[N\\] \\(1 levels of lists\\), got 'text'"),
        ("string[N]", ["a", 1], "a text \\(string\\[N\\]\\), got 1 - at inputs.x\\[1\\]"),
        ("string[N]", [b"a"], "a text \\(string\\[N\\]\\), got b'a'"),
        ("string[N]", ["\ud800"], "written as UTF-8"),
        ("int64[N, M]", [], "an empty list, which does not say its other lengths - at inputs.x; pass an array"),
        ("int64[N, 3]", [[1, 2]], "expected int64\\[N, 3\\] with N=1, got int64\\[1, 2\\]"),
        ("float32[N]", [np.float32(1), 2.0], "expected float32\\[\\] like the first, got float - at inputs.x\\[1\\]"),
        ("float32[N, M]", [np.ones(2), np.ones(3)], "float64\\[2\\] like the first, got float64\\[3\\]"),
        ("float32[N, M]", [np.ones(2), np.ones(2)], "got a list of float64\\[2\\] - at inputs.x; convert them first"),
        ("string[N]", [np.int8(1)], "got a list of int8\\[\\]"),
        ("float32[N]", {1: 2}, "got dict - at inputs.x; pass a NumPy array"),
        ("float32[N]", {1.0}, "got set - at inputs.x"),
        ("float32[N]", None, "got NoneType - at inputs.x"),
    ],
    ids=shown,
)
def test_plain_values_that_cannot_be_meant_are_refused(notation: str, value: Any, message: str) -> None:
    with pytest.raises(TensorMismatchError, match=message):
        taken(notation, value)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless += [endless, endless]

    with pytest.raises(TensorMismatchError, match="at most 3 levels of lists, got more"):
        taken("int8[N, M, K]", endless)


@pytest.mark.parametrize("value", [[1], 1, "a", [np.float32(1)]], ids=repr)
def test_plain_values_are_taken_only_where_a_cast_is_asked_for(value: Any) -> None:
    def check(cast: Any) -> Any:
        return input_check(Problem.of({"x": "float32[?]", "y": "float32[?]"}, {}), cast)

    for cast in ("no", {"y": "safe"}, {}):
        with pytest.raises(TensorMismatchError, match="pass a NumPy array"):
            check(cast)({"x": value, "y": np.ones(1)})


def test_each_input_has_its_own_rule() -> None:
    problem = Problem.of({"x": "float32[N]", "y": "float32[N]"}, {})
    check = input_check(problem, {"x": "same_kind"})

    assert check({"x": np.ones(2), "y": np.ones(2, np.float32)})[0]["x"].dtype == np.float32
    with pytest.raises(TensorMismatchError, match="got float64\\[2\\] - at inputs.y; convert it"):
        check({"x": np.ones(2), "y": np.ones(2)})


@pytest.mark.parametrize(
    ("cast", "message"),
    [
        ({"z": "safe"}, "cast names 'z', which is no input \\(there are x\\)"),
        ({"x": "unsafe"}, "cast is one of 'no', 'safe', 'same_kind', not 'unsafe' - at cast\\['x'\\]"),
        ({"x": None}, "not None"),
        ("always", "not 'always'$"),
        (["safe"], "not \\['safe'\\]"),
        (True, "not True"),
        (None, "not None"),
    ],
    ids=repr,
)
def test_rules_that_cannot_be_are_refused(cast: Any, message: str) -> None:
    for check in (input_check, native_input_check):
        with pytest.raises(OptionError, match=message):
            check(Problem.of({"x": "float32[N]"}, {}), cast)


@pytest.mark.parametrize(
    ("notation", "array", "cast", "message"),
    [
        (
            "float64[N]",
            np.array([0, 2**53 + 1]),
            "safe",
            "float64 holds exactly .*, got 9007199254740993 in int64\\[2\\] - at inputs.x\\[1\\]",
        ),
        ("float64[N]", np.array([2**63 - 1]), "safe", "got 9223372036854775807 in int64"),
        ("float64[N]", np.array([2**64 - 1], np.uint64), "safe", "got 18446744073709551615 in uint64"),
        (
            "int32[N]",
            np.array([2**31]),
            "same_kind",
            "a value that int32 holds \\(int32\\[N\\]\\), got 2147483648 in int64",
        ),
        ("int64[N]", np.array([2**63], np.uint64), "same_kind", "got 9223372036854775808 in uint64"),
        ("int8[N]", np.array([255], np.uint8), "same_kind", "got 255 in uint8"),
        ("float32[N]", np.array([1e39]), "same_kind", "a value that float32 holds .*, got 1e\\+39 in float64"),
        ("float16[N]", np.array([70000], np.int32), "same_kind", "got 70000 in int32"),
        (
            "float16[N, M]",
            np.array([[1.0], [1e5]], np.float32),
            "same_kind",
            "at inputs.x\\[1\\]\\[0\\]; convert it by",
        ),
    ],
    ids=str,
)
def test_arrays_that_lose_values_are_refused(notation: str, array: Any, cast: Any, message: str) -> None:
    with pytest.raises(TensorMismatchError, match=message):
        taken(notation, array, cast)


@pytest.mark.parametrize(
    ("notation", "array", "cast"),
    [
        ("float64[N]", np.array([2**53, -(2**62)]), "safe"),
        ("float64[N]", np.array([2**63], np.uint64), "safe"),
        ("float32[N]", np.array([2**24 + 1]), "same_kind"),
        ("float32[N]", np.array([np.inf, np.nan, 0.1]), "same_kind"),
        ("int32[N]", np.array([-(2**31)]), "same_kind"),
        ("bfloat16[N]", np.array([0.1, 1e38], np.float32), "same_kind"),
        ("float32[N]", np.zeros((0,), np.int64), "same_kind"),
        ("float32[]", np.array(3, np.int16), "safe"),
    ],
    ids=str,
)
def test_arrays_that_lose_at_most_digits_are_converted(notation: str, array: Any, cast: Any) -> None:
    made = taken(notation, array, cast)

    np.testing.assert_allclose(made.astype(np.float64), array.astype(np.float64), rtol=0.01)


# -- properties -------------------------------------------------------------------------------------------------------


@given(st.data())
def test_lists_of_an_array_give_it_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(DType)))
    shape = data.draw(st.lists(st.integers(1, 3), max_size=3).map(tuple))
    array = data.draw(tensors(dtype, shape))

    made = taken(str(TensorSpec("x", dtype, (None,) * len(shape)).notation), array.tolist())

    assert (made.dtype, made.shape) == (array.dtype, array.shape)
    if dtype is DType.BFLOAT16:  # NumPy 1 does not know its NaN for one.
        made, array = made.astype(np.float32), array.astype(np.float32)
    np.testing.assert_array_equal(made, array)


@given(st.sampled_from(INTS), st.integers(-(2**66), 2**66))
@example(DType.INT8, 127)
@example(DType.UINT64, 2**64)
def test_ints_are_taken_if_and_only_if_they_fit(dtype: DType, number: int) -> None:
    bounds = np.iinfo(dtype.numpy)
    for cast in ("safe", "same_kind"):
        if bounds.min <= number <= bounds.max:
            assert int(taken(f"{dtype}[N]", [number], cast)[0]) == number
        else:
            with pytest.raises(TensorMismatchError, match=f"got {number} "):
                taken(f"{dtype}[N]", [number], cast)


@given(st.sampled_from(sorted(FLOATS)), st.integers(-(2**70), 2**70))
def test_ints_become_floats_exactly_or_not_at_all(dtype: DType, number: int) -> None:
    digits = (abs(number) // (number & -number or 1)).bit_length()
    try:
        made = taken(f"{dtype}[]", number)
    except TensorMismatchError:
        assert digits > FLOATS[dtype] or abs(number) >= 65520
    else:
        assert int(made) == number


@given(st.data(), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_safe_casts_keep_every_value(data: st.DataObject, source: DType, target: DType) -> None:
    array = data.draw(tensors(source, (3,)))
    try:
        made = taken(f"{target}[N]", array)
    except TensorMismatchError:
        return
    for before, after in zip(array.tolist(), made.tolist(), strict=True):  # Python compares ints and floats exactly.
        assert before == after or (isnan(before) and isnan(after))


@given(st.data(), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_casts_within_a_kind_round_and_never_wrap(data: st.DataObject, source: DType, target: DType) -> None:
    array = data.draw(tensors(source, (3,)))
    try:
        made = taken(f"{target}[N]", array, "same_kind")
    except TensorMismatchError:
        return
    for before, after in zip(array.tolist(), made.tolist(), strict=True):
        if isinstance(after, int):
            assert before == after
        elif isfinite(before):
            assert isfinite(after)
            assert abs(float(before) - float(after)) <= abs(float(before)) * 2.0 ** (1 - FLOATS[target]) + 1e-7


_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2))


@given(
    st.sampled_from(list(DType)),
    st.integers(0, 3),
    st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=8),
    st.sampled_from(["safe", "same_kind"]),
)
def test_no_value_does_anything_but_fit_or_be_refused(dtype: DType, rank: int, value: object, cast: str) -> None:
    spec = TensorSpec("x", dtype, (None,) * rank)
    try:
        made = taken(spec.notation, value, cast)
    except TensorMismatchError as error:
        message, made = str(error), None

    if made is None:
        assert "inputs.x" in message
        assert "\n" not in message
    else:
        assert (made.dtype, made.ndim) == (dtype.numpy, rank)
