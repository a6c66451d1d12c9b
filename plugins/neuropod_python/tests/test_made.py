"""Results made by `neuropod_core.results.empty`: handed on as they are if nobody else has them, copied there else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import pytest

from neuropod_core import Array, Executor, Problem
from neuropod_core.results import here

Load = Callable[..., Executor]

_HEAD = """
import ctypes, types, weakref
import numpy as np
from neuropod_core.results import empty
state = types.SimpleNamespace()

def made(x):
    fresh = empty(x.shape, x.dtype)
    fresh[...] = x
    return fresh
"""

_KEPT = {
    "an attribute": "state.way = y",
    "a slice": "state.way = y[:]",
    "a view of a view": "state.way = y.reshape(2, -1).T",
    "a memoryview": "state.way = memoryview(y)",
    "a ctypes buffer": "state.way = (ctypes.c_float * 4).from_buffer(y)",
    "a weak reference": "state.way = weakref.ref(y)",
    "a DLPack alias": "state.way = np.from_dlpack(y)",
    "a dictionary": "state.way = {'y': y}",
}


class Memory(np.ndarray):
    """Of a class of its own, as a worker's is: NumPy stops at a slice of it when it looks for the owner of a view."""


class Room:
    """Memory of a placement, as a worker's: it knows what was made in it."""

    def __init__(self) -> None:
        self.memory, self.end = np.zeros(1 << 12, np.uint8).view(Memory)[:], 0
        self.made: list[Array] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
        array: Array = np.ndarray(shape, dtype, self.memory, self.end)
        self.end += 64 * -(-prod(shape) * dtype.itemsize // 64)
        self.made.append(array)
        return array

    def has_made(self, array: Array) -> bool:
        return any(made is array for made in self.made)


@pytest.fixture
def room() -> Iterator[Room]:
    here.room = Room()
    yield here.room
    here.room = None


def _load(load: Load, body: str, **options: Any) -> Executor:
    lines = "\n    ".join(body.splitlines())
    return load({"entry.py": f"{_HEAD}\ndef model(x):\n    {lines}\n\ndef main(path):\n    return model\n"}, **options)


def test_a_result_made_there_is_not_copied(load: Load, room: Room) -> None:
    executor = _load(load, "return {'y': made(x)}")

    results = executor.infer({"x": np.arange(4, dtype=np.float32)})

    assert results["y"] is room.made[0]
    assert results["y"].tolist() == [0, 1, 2, 3]
    assert len(room.made) == 1


def test_several_are_not_copied_either(load: Load, room: Room) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]", "z": "float32[N]"})
    executor = _load(load, "return {'y': made(x), 'z': made(x + 1)}", problem=problem)

    results = executor.infer({"x": np.arange(4, dtype=np.float32)})

    assert [results["y"] is room.made[0], results["z"] is room.made[1]] == [True, True]
    assert executor.infer({"x": np.arange(4, dtype=np.float32)}, ["z"])["z"] is room.made[3]


@pytest.mark.parametrize("way", _KEPT.values(), ids=_KEPT)
def test_one_that_the_model_keeps_is_copied_there(way: str, load: Load, room: Room) -> None:
    executor = _load(load, f"y = made(x)\n{way}\nreturn {{'y': y}}")

    results = executor.infer({"x": np.arange(4, dtype=np.float32)})

    assert results["y"] is room.made[1]
    assert not np.shares_memory(results["y"], room.made[0])
    assert results["y"].tolist() == [0, 1, 2, 3]


def test_one_that_is_returned_twice_is_copied(load: Load, room: Room) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]", "z": "float32[N]"})
    executor = _load(load, "y = made(x)\nreturn {'y': y, 'z': y}", problem=problem)

    results = executor.infer({"x": np.arange(4, dtype=np.float32)})

    assert not np.shares_memory(results["y"], results["z"])
    assert not any(results[name] is room.made[0] for name in results)


def test_one_of_an_earlier_call_is_copied(load: Load, room: Room) -> None:
    executor = _load(load, "state.y = getattr(state, 'y', None)\nif state.y is None:\n    state.y = made(x)\n"
                     "return {'y': state.y}")  # fmt: skip
    executor.infer({"x": np.arange(4, dtype=np.float32)})
    before, here.room = room, Room()

    results = executor.infer({"x": np.arange(4, dtype=np.float32)})

    assert not np.shares_memory(results["y"], before.memory)


def test_what_must_be_copied_is_copied_there(load: Load, room: Room) -> None:
    executor = _load(load, "state.y = x[::-1]\nreturn {'y': state.y}")

    results = executor.infer({"x": np.arange(4, dtype=np.float32)})

    assert results["y"] is room.made[0]
    assert results["y"].tolist() == [3, 2, 1, 0]


def test_without_a_room_it_is_an_array_like_any_other(load: Load) -> None:
    executor = _load(load, "y = made(x)\nstate.way = y\nreturn {'y': y}")
    fresh = _load(load, "return {'y': made(x)}")

    for model in (executor, fresh):
        results = model.infer({"x": np.arange(4, dtype=np.float32)})
        assert results["y"].tolist() == [0, 1, 2, 3]
        assert results["y"].flags.owndata
