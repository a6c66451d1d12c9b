"""Functions saved as SavedModels and opened as the backend opens them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from neuropod_core import LoadOptions, Problem, Variant
from neuropod_tf.plugin import TensorFlowBackend
from neuropod_tf.session import SessionExecutor

Save = Callable[..., Path]
Open = Callable[..., SessionExecutor]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a function (of a module, where it has state) as a SavedModel in the folder of a variant; gives that."""
    numbers = itertools.count()

    def write(
        function: Any, /, *, module: tf.Module | None = None, name: str = "serving_default", **shapes: Any
    ) -> Path:
        folder = tmp_path / f"model{next(numbers)}" / "0"
        root = module or tf.Module()
        specs = [tf.TensorSpec(shape, dtype, name=key) for key, (dtype, shape) in shapes.items()]
        served = tf.function(function, input_signature=specs)
        root.served = served
        signatures = {name: served.get_concrete_function()}
        tf.saved_model.save(root, str(folder / "data" / "savedmodel"), signatures=signatures)
        return folder

    return write


@pytest.fixture
def open_folder() -> Iterator[Open]:
    """Open the folder of a variant; closed after the test."""
    executors = []

    def load(
        folder: Path, problem: Problem, *, device: str = "cpu", config: Mapping[str, Any] | None = None, **options: Any
    ) -> SessionExecutor:
        variant = Variant("tensorflow", folder, problem, config=config or {})
        executor = TensorFlowBackend().load(variant, LoadOptions(device, options))
        assert isinstance(executor, SessionExecutor)
        executors.append(executor)
        return executor

    yield load
    for executor in executors:
        if hasattr(executor, "_session"):
            executor.close()


@pytest.fixture
def serve(save: Save, open_folder: Open) -> Open:
    """Save a function with one input ``x`` and open it: ``serve(function, "float32[N]", {"y": "float32[N]"})``."""

    def load(function: Any, x: str, outputs: Mapping[str, str], **arguments: Any) -> SessionExecutor:
        problem = Problem.of({"x": x}, dict(outputs))
        (spec,) = problem.inputs
        shape = [dim if isinstance(dim, int) else None for dim in spec.shape]
        folder = save(function, module=arguments.pop("module", None), x=(spec.dtype.value, shape))
        return open_folder(folder, problem, **arguments)

    return load
