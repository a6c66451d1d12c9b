"""Hypothesis strategies for problems and for tensors that fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuropod_core.backend import Array, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.problem import Dim, Problem, TensorSpec
from neuropod_core.tensors import object_array

__all__ = ["problems", "tensors", "tensors_for"]

_LENGTHS = st.integers(min_value=0, max_value=4)
_PLAIN = tuple(dtype for dtype in DType if dtype is not DType.BFLOAT16)  # ml_dtypes is an extra


def problems(dtypes: tuple[DType, ...] = _PLAIN, *, most_tensors: int = 3) -> st.SearchStrategy[Problem]:
    """Make problems of up to `most_tensors` inputs and outputs, with symbols, optional tensors and open lengths."""
    dims: st.SearchStrategy[Dim] = st.one_of(st.integers(1, 4), st.sampled_from(["N", "M"]), st.none())
    shapes = st.lists(dims, max_size=3).map(tuple)
    names = st.sampled_from(["x", "y", "image", "naïve name", "0"])
    specs = st.builds(TensorSpec, names, st.sampled_from(dtypes), shapes, st.booleans())
    sides = st.lists(specs, max_size=most_tensors, unique_by=lambda spec: spec.name).map(tuple)
    return st.builds(Problem, sides, sides, name=st.just("made up"), ties_outputs=st.booleans())


def tensors(dtype: DType, shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    """Make arrays of one type and shape, NaN and infinities among them, in any memory layout."""
    if dtype is DType.STRING:
        size = int(np.prod(shape))
        texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=size, max_size=size)
        return texts.map(lambda items: object_array(items, shape))
    if dtype is DType.BFLOAT16:
        return hnp.arrays(np.float32, shape).map(lambda array: array.astype(dtype.numpy))
    plain = hnp.arrays(dtype.numpy, shape)
    return st.builds(_laid_out, plain, st.sampled_from(["C", "F", "strided", "reversed"]), st.booleans())


@st.composite
def tensors_for(draw: st.DrawFn, specs: tuple[TensorSpec, ...]) -> Tensors:
    """Make tensors that fit `specs`, with one length for each symbol; optional ones may be missing."""
    sizes: dict[str, int] = {}

    def length(dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        return draw(_LENGTHS) if dim is None else sizes.setdefault(dim, draw(_LENGTHS))

    made = {}
    for spec in specs:
        if not spec.optional or draw(st.booleans()):
            made[spec.name] = draw(tensors(spec.dtype, tuple(length(dim) for dim in spec.shape)))
    return made


def _laid_out(array: Array, layout: str, frozen: bool) -> Array:  # noqa: FBT001 - drawn by position
    made: dict[str, Any] = {"C": lambda: array, "F": lambda: np.array(array, order="F")}
    made |= {"strided": lambda: strided(array), "reversed": lambda: reversed_view(array)}
    result: Array = made[layout]()
    result.flags.writeable = not frozen
    return result


def strided(array: Array) -> Array:
    """Give an equal array whose elements do not lie side by side."""
    if not array.ndim:
        return array
    wide = np.empty((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def reversed_view(array: Array) -> Array:
    """Give an equal array with negative strides."""
    backwards = tuple(slice(None, None, -1) for _ in range(array.ndim))
    return np.ascontiguousarray(array[backwards])[backwards] if array.ndim else array
