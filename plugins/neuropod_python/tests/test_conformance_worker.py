"""The suite that every backend passes, with every model in a worker."""

from __future__ import annotations

from neuropod_core.testing import InWorker
from neuropod_python import conformance


class TestPythonInWorker(InWorker, conformance.TestPython):
    """Python code in workers."""
