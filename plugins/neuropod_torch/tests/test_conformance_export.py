"""The suite that every backend passes, over exported programs."""

from __future__ import annotations

from neuropod_torch.conformance_export import TestTorchExport

__all__ = ["TestTorchExport"]
