"""How the tensors of one call lie one after another: agreed once for each set of names, types and shapes.

A layout travels as plain JSON and is checked like anything that another process says. Text has no fixed size: it lies
as its end positions (one ``uint64`` each) followed by UTF-8, at a place that each call names. Whatever is no text lies
without gaps, its axes in the order in which they lie in the memory that it comes from: what frameworks compute may
depend on that in its last bits, and such a copy is the fastest one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from neuropod_core.backend import Array
from neuropod_core.dtypes import DType
from neuropod_core.errors import SpecError, TensorMismatchError, WorkerProtocolError, shown
from neuropod_core.tensors import as_array, as_text, describe, dtype_of, object_array

ALIGNMENT = 64
"""Tensors begin at multiples of this many bytes: a cache line, and the widest vector register."""

Order = tuple[int, ...]
"""The axes of a tensor, from the one along which elements lie farthest apart to the one along which they touch."""

NO_ORDERS: Mapping[str, Order] = MappingProxyType({})

MOST_LAYOUTS = 256
"""Either side forgets the layouts that it introduced when they are more."""

_Tensor = tuple[str, DType, tuple[int, ...], bool, Order | None]

_MOST_ITEMS = 1 << 46
_LARGEST_ARRAY = 1 << 59  # NumPy multiplies lengths, those of zero left out, with the bytes of an element.
_MOST_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


@dataclass(frozen=True)
class Place:
    """One tensor: what it is, and where it begins.

    One that is `located` has no place here, since each call says where it lies: text, whose size varies, and arrays
    that lie in shared memory already.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    located: bool
    offset: int
    nbytes: int
    order: Order | None = None  # The usual one (C) if it is None.

    @property
    def is_text(self) -> bool:
        """Whether it holds strings."""
        return self.dtype is DType.STRING

    @property
    def items(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @cached_property
    def strides(self) -> tuple[int, ...] | None:
        """How many bytes lie between elements along each axis; None in the usual order."""
        if self.order is None or not self.nbytes:
            return None
        strides, step = [0] * len(self.shape), self.dtype.itemsize
        for axis in reversed(self.order):
            strides[axis] = step
            step *= self.shape[axis]
        return tuple(strides)

    @property
    def touching_shape(self) -> tuple[int, ...]:
        """Lengths of the axes in their order."""
        return self.shape if self.order is None else tuple(self.shape[axis] for axis in self.order)

    def touching(self, array: Array) -> Array:
        """Give the elements of the tensor one after another, its axes in their order; a copy only if there are gaps."""
        return np.ascontiguousarray(array if self.order is None else array.transpose(self.order))

    def in_shape(self, touching: Array) -> Array:
        """Give the tensor of which this is `touching`."""
        return touching if self.order is None else touching.transpose(np.argsort(self.order))

    def view(self, memory: Any, offset: int | None = None) -> Array:
        """Give the tensor as an array over `memory`."""
        start = self.offset if offset is None else offset
        view: Array = np.ndarray(self.shape, self.dtype.numpy, memory, start, self.strides)
        return view


@dataclass(frozen=True)
class Layout:
    """The tensors of one call, in order, and the bytes that those with a place take together."""

    places: tuple[Place, ...]
    nbytes: int

    @cached_property
    def fixed(self) -> bool:
        """Whether every tensor has its place."""
        return not any(place.located for place in self.places)

    @cached_property
    def content_bytes(self) -> int:
        """What the tensors take, wherever they lie; text not counted."""
        return sum(place.nbytes for place in self.places)

    def to_json(self) -> list[list[Any]]:
        """Give what `layout_from_json` reads; those that speak of no order know the usual one only."""
        return [
            [
                place.name,
                place.dtype.value,
                list(place.shape),
                place.located,
                *([list(place.order)] if place.order else []),
            ]
            for place in self.places
        ]


def layout_of(
    tensors: Mapping[str, Array], located: Container[str] = (), orders: Mapping[str, Order] = NO_ORDERS
) -> Layout:
    """Lay out arrays, but for those that are `located`; in the usual order, but for those that have another one.

    Raises
    ------
    TensorMismatchError
        If an array has an element type outside of the closed set.
    """
    return _laid_out(
        (name, _dtype(name, array), array.shape, name in located, orders.get(name)) for name, array in tensors.items()
    )


def orders_of(tensors: Mapping[str, Array], *, keeps_order: bool = True) -> Mapping[str, Order]:
    """Give the order of every tensor that has an unusual one; none where the other side knows the usual one only."""
    if not keeps_order:
        return NO_ORDERS
    orders = {name: order for name, array in tensors.items() if (order := order_of(array)) is not None}
    return orders or NO_ORDERS


def facts_of(
    tensors: Mapping[str, Array], located: Container[str], orders: Mapping[str, Order]
) -> Iterator[tuple[Any, ...]]:
    """Give what two sets of tensors have in common if they are laid out alike."""
    for name, array in tensors.items():
        yield name, array.shape, array.dtype, name in located, orders.get(name)


def order_of(array: Array) -> Order | None:
    """Give the order of the axes of an array; None for the usual one, and where several elements share their memory."""
    if array.flags.c_contiguous or array.dtype.hasobject or not array.size:
        return None
    steps = [abs(step) if length > 1 else 0 for step, length in zip(array.strides, array.shape, strict=True)]
    axes = [axis for axis, length in enumerate(array.shape) if length > 1]
    order = sorted(axes, key=lambda axis: -steps[axis])
    if order == axes or not all(steps[axis] for axis in axes):
        return None
    return (*(axis for axis, length in enumerate(array.shape) if length == 1), *order)


def layout_from_json(value: object) -> Layout:
    """Read a layout that another process wrote.

    Raises
    ------
    WorkerProtocolError
        If it is none.
    """
    try:
        layout = _laid_out(_checked(*item) for item in value)  # type: ignore[attr-defined]  # else: TypeError, below
    except (TypeError, SpecError) as error:
        raise WorkerProtocolError(f"a layout of tensors cannot be {shown(value)}: {error}") from error
    if len({place.name for place in layout.places}) < len(layout.places):
        raise WorkerProtocolError(f"a layout of tensors has a name twice: {shown(value)}")
    return layout


def plain(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """Give every tensor as an array in the form that travels: native types, text as objects of type `str`.

    Raises
    ------
    TensorMismatchError
        If one cannot be had as an array.
    """
    return {name: _plain(name, value) for name, value in tensors.items()}


def encode_text(array: Array) -> bytes:
    """Write an array of `str`: the end of each in the text that follows, then the text."""
    items = [text.encode() for text in array.ravel().tolist()]
    ends = np.cumsum([len(item) for item in items], dtype=np.uint64)
    return ends.tobytes() + b"".join(items)


def decode_text(data: bytes, place: Place) -> Array:
    """Read what `encode_text` wrote, from bytes that nobody else can change any more.

    Raises
    ------
    WorkerProtocolError
        If it is anything else.
    """
    count = place.items
    try:
        ends = np.frombuffer(data, np.uint64, count).tolist()
        text = data[8 * count :]
        if (ends[-1] if ends else 0) != len(text) or sorted(ends) != ends:
            raise ValueError("its ends do not fit")  # noqa: TRY301 - said together with what else may be wrong
        return object_array(_cut(text, ends), place.shape)
    except ValueError as error:  # UnicodeDecodeError is one too.
        raise WorkerProtocolError(f"text tensor {place.name!r} cannot be read: {error}") from error


def _cut(text: bytes, ends: list[int]) -> list[str]:
    if text.isascii():
        whole = text.decode()
        return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def _laid_out(tensors: Iterable[_Tensor]) -> Layout:
    places, end = [], 0
    for name, dtype, shape, located, order in tensors:
        nbytes = prod(shape) * dtype.itemsize
        away = located or dtype is DType.STRING
        places.append(Place(name, dtype, shape, away, 0 if away else end, nbytes, order))
        end += 0 if away else aligned(nbytes)
    return Layout(tuple(places), end)


def aligned(nbytes: int) -> int:
    """Round up to where the next tensor may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _checked(name: object, dtype: object, shape: object, located: object, order: object = None) -> _Tensor:
    if not isinstance(name, str) or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise TypeError(shown(name))
    if not isinstance(located, bool):
        raise TypeError(shown(located))
    if not all(type(length) is int and length >= 0 for length in shape) or prod(shape) > _MOST_ITEMS:
        raise TypeError(shown(shape))
    if prod(length or 1 for length in shape) > _LARGEST_ARRAY:
        raise TypeError(shown(shape))
    if order is None:
        return name, DType.parse(dtype), tuple(shape), located, None
    if not isinstance(order, list) or not all(type(axis) is int for axis in order):
        raise TypeError(shown(order))
    if sorted(order) != list(range(len(shape))) or dtype == DType.STRING:
        raise TypeError(shown(order))
    return name, DType.parse(dtype), tuple(shape), located, tuple(order)


def _dtype(name: str, array: Array) -> DType:
    dtype = dtype_of(array)
    if dtype is None:
        raise TensorMismatchError(f"inputs.{name}", "an element type that travels", describe(array))
    return dtype


def _plain(name: str, value: object) -> Array:
    array = as_array(value)
    if array is not None and array.dtype.kind in "OUST":
        array = as_text(array)
    if array is None:
        raise TensorMismatchError(f"inputs.{name}", "an array that can travel to another process", describe(value))
    return array
