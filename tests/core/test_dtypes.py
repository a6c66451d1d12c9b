from __future__ import annotations

import numpy as np
import pytest

from neuropod_core import DType, SpecError


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING], ids=str)
def test_dtype_is_numpys_type_of_its_name(dtype: DType) -> None:
    if dtype is DType.BFLOAT16:
        pytest.importorskip("ml_dtypes")

    assert dtype.numpy.name == dtype.value
    assert dtype.numpy.itemsize == dtype.itemsize
    assert DType.parse(dtype.numpy) is dtype


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("double", "float64"),
        ("str", "string"),
        (np.float32, "float32"),
        (np.dtype(object), "string"),
        (bool, "bool"),
        (object, "string"),
    ],
    ids=str,
)
def test_parse_knows_aliases(name: object, expected: str) -> None:
    assert DType.parse(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "complex64",
        "float128",
        "datetime64",
        "object",
        "O",
        "a5",
        "f4, i4",
        "(9999999,)f4",
        "",
        "V8",
        3,
        None,
        [],
        dict,
        "x" * 99,
    ],
    ids=repr,
)
def test_parse_refuses_what_is_no_element_type(name: object) -> None:
    with pytest.raises(SpecError, match="is no element type"):
        DType.parse(name)
