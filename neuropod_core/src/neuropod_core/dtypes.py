"""The closed set of element types that cross a neuropod door."""

from __future__ import annotations

import re
from contextlib import suppress
from enum import Enum
from functools import cache
from typing import Any, Union

import numpy as np

from neuropod_core.errors import SpecError, shown

__all__ = ["DType", "DTypeLike"]

DTypeLike = Union["DType", str, type, "np.dtype[Any]"]
"""What `DType.parse` reads."""

_OBJECTS = (object, np.object_)  # Their dtype equals them. NumPy takes any other class for an object too, even `dict`.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}\Z")


class DType(str, Enum):
    """The element type of a tensor; its value is the name that packages write.

    ``bfloat16`` is NumPy's through `ml_dtypes` (extra ``[bfloat16]``). A ``string`` is a Python `str` in an array of
    objects outside, UTF-8 inside.

    Examples
    --------
    >>> DType.parse("double"), DType.parse(np.int8).numpy
    (<DType.FLOAT64: 'float64'>, dtype('int8'))
    """

    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"
    STRING = "string"

    def __str__(self) -> str:
        return self.value

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy type of arrays that hold it, in native byte order; objects for strings.

        Raises
        ------
        SpecError
            For ``bfloat16`` where `ml_dtypes` is not installed.
        """
        return _numpy_type(self)

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 0 for strings, whose length varies."""
        return _ITEM_BYTES[self]

    @classmethod
    def parse(cls, name: object) -> DType:
        """Read a name (``"float32"``, NumPy's aliases such as ``"double"``), a NumPy type or a scalar class.

        Raises
        ------
        SpecError
            If it names no type of the closed set.
        """
        if isinstance(name, cls):
            return name
        found = _BY_NAME.get(name) if isinstance(name, str) else None
        return found or cls._parse_through_numpy(name)

    @classmethod
    def _parse_through_numpy(cls, name: object) -> DType:
        # Only identifiers reach NumPy: its parser also takes records and sub-arrays of any size.
        if isinstance(name, np.dtype | type) or (isinstance(name, str) and _NAME.match(name)):
            with suppress(TypeError, DeprecationWarning):  # The second where warnings are errors.
                dtype = np.dtype(name)
                if dtype.kind in "UT" or name in _OBJECTS:
                    return cls.STRING
                if dtype.name in _BY_NAME:
                    return _BY_NAME[dtype.name]
        raise SpecError(f"{shown(name)} is no element type", remedy=f"use one of {', '.join(cls.__members__.values())}")


_BY_NAME: dict[object, DType] = {dtype.value: dtype for dtype in DType}
_ITEM_BYTES = {dtype: 0 if dtype is DType.STRING else int(re.sub(r"\D", "", dtype.value) or 8) // 8 for dtype in DType}


@cache
def _numpy_type(dtype: DType) -> np.dtype[Any]:
    if dtype is DType.STRING:
        return np.dtype(object)
    if dtype is DType.BFLOAT16:
        return _bfloat16()
    plain: np.dtype[Any] = np.dtype(dtype.value)
    return plain


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise SpecError(
            "bfloat16 needs the package ml_dtypes", remedy="run: pip install 'neuropod-core[bfloat16]'"
        ) from error
    brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return brain
