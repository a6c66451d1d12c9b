"""The suite that every backend passes, with every model in a worker."""

from __future__ import annotations

from neuropod_core.testing import InWorker
from neuropod_torch import conformance, conformance_aoti, conformance_export


class TestTorchScriptInWorker(InWorker, conformance.TestTorchScript):
    """TorchScript in workers."""


class TestTorchExportInWorker(InWorker, conformance_export.TestTorchExport):
    """Exported programs in workers."""


class TestTorchAotiInWorker(InWorker, conformance_aoti.TestTorchAoti):
    """Compiled programs in workers."""
