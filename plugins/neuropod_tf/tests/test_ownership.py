"""Whose memory: callers' arrays are never written, results are never anything that the model or a caller holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

_SIZES = {"small": 64, "large": 65536}


class Holder(tf.Module):
    """State for the models below."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.kept = tf.Variable(tf.range(size, dtype=tf.float32))
        self.inner = tf.function(lambda x: (tf.identity(x), self.kept.read_value(), self.held))

    @property
    def held(self) -> Any:
        return tf.constant(np.arange(self.size, dtype=np.float32))

    def identities(self, x: Any) -> dict[str, Any]:
        return {
            "plain": tf.identity(x),
            "again": tf.identity(x),
            "reshaped": tf.reshape(x, [-1, 2]),
            "transposed": tf.transpose(tf.reshape(x, [-1, 1])),
            "expanded": tf.expand_dims(x, 0),
            "stopped": tf.stop_gradient(x),
            "plus_zero": x + 0.0,
            "times_one": x * 1.0,
            "cast": tf.cast(x, tf.float32),
            "tiled": tf.tile(x, [1]),
            "summed": tf.add_n([x]),
        }

    def parts(self, x: Any) -> dict[str, Any]:
        half = self.size // 2
        return {
            "start": x[:half],
            "rest": x[half:],
            "first": tf.split(x, 2)[0],
            "row": tf.unstack(tf.reshape(x, [2, -1]))[1],
        }

    def branches(self, x: Any) -> dict[str, Any]:
        looped = tf.while_loop(lambda i, _: i < 2, lambda i, kept: (i + 1, kept), [0, x])[1]
        return {
            "taken": tf.cond(tf.reduce_sum(x) > -1.0, lambda: x, lambda: x * 2.0),
            "switched": tf.switch_case(tf.cast(x[0], tf.int32) * 0, [lambda: x, lambda: x + 1.0]),
            "looped": looped,
        }

    def nested(self, x: Any) -> dict[str, Any]:
        plain, variable, constant = self.inner(x)
        return {"plain": plain, "variable": variable, "constant": constant}

    def constants(self, x: Any) -> dict[str, Any]:
        return {
            "held": self.held,
            "again": self.held,
            "folded": self.held * 2.0 + 1.0,
            "shape": tf.cast(tf.shape(x), tf.float32),
            "zero": x * 0.0,
            "filled": tf.fill([self.size], 3.0),
        }

    def variables(self, x: Any) -> dict[str, Any]:
        return {
            "read": self.kept.read_value(),
            "gathered": tf.gather(self.kept, tf.range(self.size)),
            "added": self.kept + x * 0,
        }

    def fresh(self, x: Any) -> dict[str, Any]:
        y = tf.tanh(x)
        return {"y": y, "same": y, "reshaped": tf.reshape(y, [2, -1]), "part": y[:2]}

    def updated(self, x: Any) -> dict[str, Any]:
        before = self.kept.read_value()
        with tf.control_dependencies([before]):
            self.kept.assign_add(x)
        return {"before": before, "after": self.kept.read_value()}

    def stored(self, x: Any) -> dict[str, Any]:
        before = self.kept + 0.0
        with tf.control_dependencies([before]):
            self.kept.assign(x)
        return {"before": before, "after": self.kept.read_value()}

    def scattered_after_store(self, x: Any) -> dict[str, Any]:
        results = self.stored(x)
        self.kept.scatter_nd_update([[0]], [-7.0])
        return results | {"after": self.kept.read_value()}


_PURE = ["identities", "parts", "branches", "nested", "constants", "variables", "fresh"]
_IN_PLACE = {
    "add": lambda x: tf.raw_ops.InplaceAdd(x=x, i=[0], v=tf.ones([1])),
    "sub": lambda x: tf.raw_ops.InplaceSub(x=x, i=[0], v=tf.ones([1])),
    "update": lambda x: tf.raw_ops.InplaceUpdate(x=x, i=[0], v=tf.ones([1])),
    "add through a view": lambda x: tf.raw_ops.InplaceAdd(x=tf.reshape(tf.identity(x), [-1]), i=[0], v=tf.ones([1])),
    "add in a function": tf.function(lambda x: tf.raw_ops.InplaceAdd(x=x, i=[0], v=tf.ones([1]))),
    "add in a branch": lambda x: tf.cond(
        x[0] > -1.0, lambda: tf.raw_ops.InplaceAdd(x=x, i=[0], v=tf.ones([1])), lambda: x
    ),
    "scatter": lambda x: tf.tensor_scatter_nd_update(x, [[0]], [9.0]),
}


def _placed(values: np.ndarray, offset: int) -> np.ndarray:
    """Copy to an address that is `offset` elements behind a multiple of 64 bytes: TensorFlow uses aligned memory."""
    raw = np.zeros(values.size + 32, values.dtype)
    start = -raw.ctypes.data % 64 // values.itemsize + offset
    raw[start : start + values.size] = values
    return raw[start : start + values.size]


def _opened(serve: Callable[..., Any], name: str, size: int) -> Any:
    holder = Holder(size)
    tried = getattr(Holder(size), name)(tf.zeros(size))
    outputs = {key: f"float32[{', '.join('?' * tensor.ndim)}]" for key, tensor in tried.items()}
    return serve(getattr(holder, name), f"float32[{size}]", outputs, module=holder)


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("size", _SIZES.values(), ids=_SIZES)
@pytest.mark.parametrize("name", _PURE)
def test_results_are_the_callers_own(serve: Callable[..., Any], name: str, size: int, offset: int) -> None:
    executor = _opened(serve, name, size)
    x = _placed(np.arange(size, dtype=np.float32), offset)

    first = executor.infer({"x": x})
    kept = {key: value.copy() for key, value in first.items()}
    second = executor.infer({"x": x})

    np.testing.assert_array_equal(x, np.arange(size))
    for key, value in first.items():
        assert value.flags.writeable, key
        assert not np.shares_memory(value, x), key
        assert not any(np.shares_memory(value, other) for other in second.values()), key
        assert not any(np.shares_memory(value, other) for name, other in first.items() if name != key), key
        value[...] = -1.0
    for key, value in executor.infer({"x": x}).items():
        np.testing.assert_array_equal(value, kept[key], err_msg=key)


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", _IN_PLACE)
def test_models_that_write_in_place_leave_inputs_alone(serve: Callable[..., Any], kind: str, offset: int) -> None:
    executor = serve(lambda x: {"y": _IN_PLACE[kind](x)}, "float32[64]", {"y": "float32[64]"})
    x = _placed(np.arange(64, dtype=np.float32), offset)

    first = executor.infer({"x": x})["y"]
    kept = first.copy()
    second = executor.infer({"x": x})["y"]

    np.testing.assert_array_equal(x, np.arange(64))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, kept)
    assert first[0] != x[0]


def test_later_updates_of_a_variable_change_no_earlier_result(serve: Callable[..., Any]) -> None:
    executor = _opened(serve, "updated", 64)
    ones = _placed(np.ones(64, np.float32), 0)

    first = executor.infer({"x": ones})
    second = executor.infer({"x": ones})
    first["after"][...] = 0.0

    np.testing.assert_array_equal(first["before"], np.arange(64))
    np.testing.assert_array_equal(second["before"], np.arange(64) + 1)
    np.testing.assert_array_equal(second["after"], np.arange(64) + 2)
    np.testing.assert_array_equal(executor.infer({"x": ones})["before"], np.arange(64) + 2)


@pytest.mark.parametrize("name", ["stored", "scattered_after_store"])
def test_a_variable_never_becomes_the_callers_array(serve: Callable[..., Any], name: str) -> None:
    executor = _opened(serve, name, 64)
    x = _placed(np.arange(64, dtype=np.float32) + 1, 0)

    first = executor.infer({"x": x})["after"]
    np.testing.assert_array_equal(x, np.arange(64) + 1)
    kept = first.copy()
    x[...] = first[...] = -5.0
    second = executor.infer({"x": np.zeros(64, np.float32)})["before"]

    np.testing.assert_array_equal(second, kept)


def test_results_outlive_the_model(serve: Callable[..., Any]) -> None:
    executor = _opened(serve, "nested", 64)
    results = executor.infer({"x": np.ones(64, np.float32)})
    executor.close()

    np.testing.assert_array_equal(results["plain"], np.ones(64))
    np.testing.assert_array_equal(results["constant"], np.arange(64))


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
def test_inputs_are_not_kept_after_the_call(serve: Callable[..., Any], offset: int) -> None:
    executor = _opened(serve, "identities", 64)
    x = _placed(np.ones(64, np.float32), offset)
    holders = sys.getrefcount(x)

    results = executor.infer({"x": x})

    assert sys.getrefcount(x) == holders
    assert set(results) >= {"plain"}
