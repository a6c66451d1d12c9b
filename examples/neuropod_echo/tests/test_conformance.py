"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_echo.conformance import TestEcho

__all__ = ["TestEcho"]
