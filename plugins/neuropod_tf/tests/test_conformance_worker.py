"""The suite that every backend passes, with every model in a worker."""

from __future__ import annotations

from neuropod_core.testing import InWorker
from neuropod_tf import conformance


class TestTensorFlowInWorker(InWorker, conformance.TestTensorFlow):
    """TensorFlow in workers."""
