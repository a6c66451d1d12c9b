"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_onnx.conformance import TestOnnx

__all__ = ["TestOnnx"]
