"""The conformance suite of this backend (extra ``[testing]``): ``neuropod plugins check tensorflow`` runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import Array, Problem
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_tf.packagers import create_tensorflow_neuropod

__all__ = ["TestTensorFlow"]


class _Standard(tf.Module):  # type: ignore[misc]  # TensorFlow is Any here
    """The standard models, one function each."""

    def __init__(self) -> None:
        super().__init__()
        self.held = tf.Variable(tf.zeros(3))

    def identity(self, **inputs: Any) -> dict[str, Any]:
        return {f"y{name[1:]}": tf.identity(value) for name, value in inputs.items()}

    def add(self, x: Any, y: Any) -> dict[str, Any]:
        return {"sum": x + y, "difference": x - y}

    def in_place(self, x: Any) -> dict[str, Any]:
        return {"y": tf.raw_ops.InplaceAdd(x=x, i=tf.range(tf.shape(x)[0]), v=tf.ones_like(x))}

    def buffer(self, x: Any) -> dict[str, Any]:
        self.held.assign(x)
        return {"y": self.held.read_value()}

    def constant(self, x: Any) -> dict[str, Any]:
        del x
        return {"y": tf.constant([1.0, 2.0, 3.0])}

    def failing(self, x: Any) -> dict[str, Any]:
        return {"y": x + tf.ones(3) * x}


class TestTensorFlow(BackendTests):
    """TensorFlow, by the release that is installed."""

    platform = "tensorflow"
    distribution = "neuropod-tf"

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model as a SavedModel with one signature."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            standard = _Standard()
            function: Callable[..., Any] = getattr(standard, model.value)
            standard.serving_default = tf.function(function)
            create_tensorflow_neuropod(
                neuropod_path=path, model_name=model.value, trackable_obj=standard, problem=problem
            )

        return write

    def to_numpy(self, tensor: Any) -> Array:
        """Give a tensor as an array by TensorFlow's own means, which know bfloat16 too."""
        return np.asarray(tensor.numpy() if tf.is_tensor(tensor) else tensor)
