"""Tensors of TensorFlow out, tensors of any framework in; what the conformance suite does not ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import InferenceError, Problem, load_neuropod
from neuropod_tf import create_tensorflow_neuropod
from neuropod_tf._native import tensors_of

Open = Callable[..., Any]


def test_results_are_tensors_around_the_sessions_memory(serve: Open) -> None:
    executor = serve(lambda x: {"y": x * 2.0}, "float32[N]", {"y": "float32[N]"})
    x = tf.constant([1.0, 2.0])

    y = executor.infer_native({"x": x})["y"]

    assert tf.is_tensor(y)
    assert (y.numpy().tolist(), (y + x).numpy().tolist()) == ([2, 4], [3, 6])


@pytest.mark.parametrize("offset", [1, 3, 15])
def test_memory_that_kernels_cannot_read_is_copied(offset: int) -> None:
    array = np.arange(64, dtype=np.float32)[offset:]

    tensor = tensors_of({"y": array})["y"]

    np.testing.assert_array_equal((tensor + 1.0).numpy(), array + 1)  # A misaligned one ends the process here.


def test_parts_of_one_tensor_are_tensors_that_kernels_can_read(serve: Open) -> None:
    executor = serve(
        lambda x: dict(zip("abc", tf.split(x * 1.0, 3), strict=True)),
        "float32[9]",
        dict.fromkeys("abc", "float32[3]"),
    )

    results = executor.infer_native({"x": np.arange(9, dtype=np.float32)})

    assert [(part + 0.0).numpy().tolist() for part in results.values()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_text_stays_an_array(serve: Open) -> None:
    executor = serve(
        lambda x: {"y": tf.strings.upper(x), "n": tf.strings.length(x)},
        "string[N]",
        {"y": "string[N]", "n": "int32[N]"},
    )

    results = executor.infer_native({"x": np.array(["ab", "c"], object)})

    assert (type(results["y"]), results["y"].tolist()) == (np.ndarray, ["AB", "C"])
    assert results["n"].numpy().tolist() == [2, 1]


def test_state_is_shared_between_both_ways_of_calling(serve: Open) -> None:
    module = tf.Module()
    module.calls = tf.Variable(0.0)
    executor = serve(
        lambda x: {"y": x * 0.0 + module.calls.assign_add(1.0)}, "float32[N]", {"y": "float32[N]"}, module=module
    )
    x = np.zeros(1, np.float32)

    first = executor.infer_native({"x": x})["y"]
    results = [executor.infer({"x": x})["y"].item(), executor.infer_native({"x": x})["y"].numpy().item()]

    assert (first.numpy().item(), results) == (1, [2, 3])


def test_a_call_inside_of_a_graph_gives_tensors_of_values(serve: Open) -> None:
    executor = serve(lambda x: {"y": x + 1.0}, "float32[]", {"y": "float32[]"})

    with tf.Graph().as_default():
        y = executor.infer_native({"x": np.array(1, np.float32)})["y"]

    assert y.numpy() == 2


def test_what_is_no_tensor_is_refused(serve: Open) -> None:
    executor = serve(lambda x: {"y": x + 1.0}, "float32[N]", {"y": "float32[N]"})

    with pytest.raises(InferenceError, match=r"a str cannot be read as an array - at inputs\.x"):
        executor.infer_native({"x": "no tensor"})


def test_results_of_one_model_are_inputs_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "m.neuropod"
    problem = Problem.of({"x": "bfloat16[N]", "s": "bfloat16[]"}, {"y": "bfloat16[N]", "t": "bfloat16[]"})
    create_tensorflow_neuropod(
        neuropod_path=path, model_name="m", trackable_obj=lambda x, s: {"y": x + s, "t": s + s}, problem=problem
    )
    with load_neuropod(path, cache_dir=tmp_path / "cache") as model:
        x, s = tf.constant([1.0, 2.0], tf.bfloat16), tf.constant(1.0, tf.bfloat16)

        first = model.infer({"x": x, "s": s}, result="native")
        second = model.infer({"x": first["y"], "s": first["t"]}, result="native")

        assert tf.is_tensor(second["y"]) is hasattr(x, "__dlpack__")  # As releases before have no such tensors.
        assert (tf.cast(second["y"], tf.float32).numpy().tolist(), float(second["t"])) == ([4, 5], 4)
