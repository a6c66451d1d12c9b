"""What the author of a backend tests it with (extra ``[testing]``): one class to subclass, one fixture to give.

::

    class TestEcho(BackendTests):
        platform = "echo"

        @pytest.fixture
        def write_model(self):
            def write(model, problem, path):
                create_echo_neuropod(neuropod_path=path, model_name="m", outputs=OUTPUTS[model], problem=problem)
            return write
"""

# ruff: noqa: E402 - what asserts is imported when pytest knows that its asserts are to be explained.

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("_arrays", "_suite", "_models", "_threads")),
    *(
        f"{__name__}._{part}_tests"
        for part in ("descriptor", "life", "native", "ownership", "refusal", "surroundings", "value", "worker")
    ),
)

from neuropod_core.testing._backend_tests import BackendTests
from neuropod_core.testing._models import NotExpressibleError, Sample, StandardModel, WriteModel
from neuropod_core.testing._packages import fake_package
from neuropod_core.testing._worker_tests import InWorker
from neuropod_core.testing.strategies import problems, tensors, tensors_for

__all__ = [
    "BackendTests",
    "InWorker",
    "NotExpressibleError",
    "Sample",
    "StandardModel",
    "WriteModel",
    "fake_package",
    "problems",
    "tensors",
    "tensors_for",
]
