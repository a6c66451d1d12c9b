"""Models in plain Python, as a package carries them; `data_path` holds their weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Model = Callable[..., dict[str, Any]]


def mlp(data_path: str) -> Model:
    """Give two dense layers."""
    weights = np.load(Path(data_path) / "weights.npz")
    w1, b1, w2, b2 = (weights[name] for name in ("w1", "b1", "w2", "b2"))

    def call(x: Any) -> dict[str, Any]:
        return {"y": np.maximum(x @ w1 + b1, 0) @ w2 + b2}

    return call


def add(data_path: str) -> Model:
    """Give a sum of two inputs."""
    del data_path

    def call(a: Any, b: Any) -> dict[str, Any]:
        return {"y": a + b}

    return call


def scale(data_path: str) -> Model:
    """Give a product with a number."""
    factor = np.load(Path(data_path) / "weights.npz")["factor"]

    def call(x: Any) -> dict[str, Any]:
        return {"y": x * factor}

    return call


def wait(data_path: str) -> Model:
    """Give a wait of so many seconds."""
    del data_path

    def call(seconds: Any) -> dict[str, Any]:
        time.sleep(float(seconds))
        return {"y": seconds}

    return call
