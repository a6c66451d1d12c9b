"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_python.conformance import TestPython

__all__ = ["TestPython"]
