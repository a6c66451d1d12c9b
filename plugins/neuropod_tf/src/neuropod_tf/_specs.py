"""Specs of a problem -> TensorFlow's."""

from __future__ import annotations

from typing import Any

from neuropod_core import TensorSpec

__all__ = ["tensor_spec"]


def tensor_spec(spec: TensorSpec, name: str) -> Any:
    """Give a spec of a problem as TensorFlow's."""
    import tensorflow as tf

    shape = [dim if isinstance(dim, int) else None for dim in spec.shape]
    return tf.TensorSpec(shape, tf.dtypes.as_dtype(spec.dtype.value), name=name)
