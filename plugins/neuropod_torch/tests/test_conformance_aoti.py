"""The suite that every backend passes, over programs that AOTInductor compiles here."""

from __future__ import annotations

from neuropod_torch.conformance_aoti import TestTorchAoti

__all__ = ["TestTorchAoti"]
