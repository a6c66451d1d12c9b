"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_tf.conformance import TestTensorFlow

__all__ = ["TestTensorFlow"]
