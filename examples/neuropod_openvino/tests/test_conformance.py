"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_openvino.conformance import TestOpenVINO

__all__ = ["TestOpenVINO"]
