from __future__ import annotations

import array as stdlib_array
from enum import Enum
from typing import Any

import numpy as np
import pytest

from neuropod_core import DType
from neuropod_core.tensors import as_array, as_text, describe, dtype_of, object_array


class Lent:
    """Lends its memory by DLPack and by nothing else, as tensors of another framework do."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> object:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class Far(Lent):
    """Lies on a device that NumPy cannot reach."""

    def __dlpack__(self, **options: object) -> object:
        raise BufferError("on another device")


class Broken(Lent):
    """Raises what no protocol foresees."""

    def __dlpack__(self, **options: object) -> object:
        raise KeyError("broken")


class Interface:
    """Shows its memory by the array interface."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


@pytest.mark.parametrize(
    "wrap", [lambda a: a, Lent, Interface, memoryview], ids=["array", "dlpack", "interface", "buffer"]
)
def test_memory_is_taken_without_a_copy(wrap: object) -> None:
    owner = np.arange(6, dtype=np.float32)
    taken = as_array(wrap(owner))  # type: ignore[operator]  # each wraps an array

    assert taken is not None
    assert np.shares_memory(taken, owner)


def test_an_array_comes_back_as_itself() -> None:
    owner = np.zeros(3)

    assert as_array(owner) is owner


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        2.5,
        [1, 2],
        (1,),
        "text",
        b"bytes",
        {},
        object(),
        np.ma.masked_array([1]),
        Far(np.zeros(1)),
        Broken(np.zeros(1)),
        int,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_no_tensor_is_none(value: object) -> None:
    assert as_array(value) is None


def test_scalars_and_subclasses_become_plain_arrays() -> None:
    assert as_array(np.float32(3)).shape == ()  # type: ignore[union-attr]  # it is an array
    assert as_array(np.str_("text")).shape == ()  # type: ignore[union-attr]  # it is an array
    assert type(as_array(np.zeros(3).view(np.recarray))) is np.ndarray


def test_text_keeps_its_shape_and_its_nuls() -> None:
    array = object_array(["a\0b", b"\xc3\xbc"], (1, 2))

    text = as_text(array)

    assert text is not None
    assert text.tolist() == [["a\0b", "ü"]]


class Colour(str, Enum):
    RED = "red"


def test_text_of_a_subclass_is_its_value() -> None:
    text = as_text(object_array([Colour.RED, np.str_("blue")], (2,)))

    assert text is not None
    assert [(type(item), item) for item in text.tolist()] == [(str, "red"), (str, "blue")]


def test_fixed_width_text_that_utf8_cannot_hold_is_no_text() -> None:
    assert as_text(np.array(["\ud800"])) is None


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no StringDType")
@pytest.mark.parametrize("missing", [None, np.nan], ids=repr)
def test_a_missing_text_is_no_text(missing: object) -> None:
    dtype = np.dtypes.StringDType(na_object=missing)

    assert as_text(np.array(["a", missing], dtype=dtype)) is None
    assert as_text(np.array(["a", "b"], dtype=dtype)).tolist() == ["a", "b"]  # type: ignore[union-attr]  # it is text


def test_empty_text_is_text() -> None:
    assert as_text(np.empty((0, 2), object)) is not None
    assert as_text(np.zeros(0)) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(["a"], object), "string[1]"),
        (np.array([1], object), "object[1]"),
        (np.zeros((2, 3), np.int8), "int8[2, 3]"),
        (np.array("a"), "string[]"),
        ([1], "list"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_describe_uses_the_notation_of_specs(value: object, expected: str) -> None:
    assert describe(value) == expected


def test_dtype_of_names_the_element_type() -> None:
    assert dtype_of(np.zeros(1, np.uint16)) is DType.UINT16
    assert dtype_of(np.array(["a"])) is DType.STRING
    assert dtype_of(np.zeros(1, complex)) is None


def test_a_buffer_of_the_standard_library_is_taken_through_memoryview() -> None:
    taken = as_array(memoryview(stdlib_array.array("d", [1.0, 2.0])))

    assert taken is not None
    assert taken.tolist() == [1.0, 2.0]


def test_a_tensor_whose_array_is_a_scalar_is_an_array_without_dimensions() -> None:
    class Scalar:
        def __array__(self, *_: object, **__: object) -> Any:
            return np.float16(1.5)

    array = as_array(Scalar())

    assert array is not None
    assert (array.dtype.name, array.shape, array.item()) == ("float16", (), 1.5)


def test_the_order_of_bytes_is_told() -> None:
    assert describe(np.ones(2, np.dtype(np.float32).newbyteorder())) == "byte-swapped float32[2]"
    assert describe(np.ones(2, np.float32)) == "float32[2]"
