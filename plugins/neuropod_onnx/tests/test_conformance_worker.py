"""The suite that every backend passes, with every model in a worker."""

from __future__ import annotations

from neuropod_core.testing import InWorker
from neuropod_onnx import conformance


class TestOnnxInWorker(InWorker, conformance.TestOnnx):
    """ONNX Runtime in workers."""
