"""How a Keras model of the zoo is opened in a Python package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras


def load(data_path: str) -> Callable[..., dict[str, Any]]:
    """Open ``model.keras``."""
    return called(keras.saving.load_model(Path(data_path) / "model.keras", compile=False))


def called(model: Any) -> Callable[..., dict[str, Any]]:
    """Call a model with the inputs by name, and name what it gives by the layers that give it."""
    inputs, outputs = [tensor.name for tensor in model.inputs], list(model.output_names)

    def call(**given: Any) -> dict[str, Any]:
        arrays = [given[name] for name in inputs]
        tensors = [keras.ops.convert_to_tensor(one.tolist() if one.dtype == object else one) for one in arrays]
        results = model(tensors if len(tensors) > 1 else tensors[0], training=False)
        return dict(zip(outputs, map(keras.ops.convert_to_numpy, keras.tree.flatten(results)), strict=True))

    return call
