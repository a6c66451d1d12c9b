"""Inputs for measurements: fresh arrays, the same in every run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from neuropod_core import Array, DType, Tensors, TensorSpec

__all__ = ["ROTATION", "arrays", "rotation"]

ROTATION = 8


def rotation(specs: Iterable[TensorSpec], batch: int = 1) -> list[Tensors]:
    """Give eight calls' inputs; symbols have the length `batch`."""
    kept = tuple(specs)
    return [arrays(kept, batch, seed) for seed in range(ROTATION)]


def arrays(specs: Iterable[TensorSpec], batch: int = 1, seed: int = 0) -> Tensors:
    """Give the inputs of one call."""
    random = np.random.default_rng(seed)
    return {spec.name: _array(spec, batch, random) for spec in specs}


def _array(spec: TensorSpec, batch: int, random: np.random.Generator) -> Array:
    shape = tuple(dim if isinstance(dim, int) else batch for dim in spec.shape)
    values = random.random(shape)
    if spec.dtype is DType.STRING:
        return np.array([f"word {value:.6f}" for value in values.ravel()], dtype=object).reshape(shape)
    return values.astype(spec.dtype.numpy)
