"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_torch.conformance import TestTorchScript

__all__ = ["TestTorchScript"]
