"""The conformance suite of backends."""

from __future__ import annotations

from neuropod_core.testing._descriptor_tests import DescriptorTests
from neuropod_core.testing._life_tests import LifeTests
from neuropod_core.testing._native_tests import NativeTests
from neuropod_core.testing._ownership_tests import OwnershipTests
from neuropod_core.testing._refusal_tests import RefusalTests
from neuropod_core.testing._surroundings_tests import SurroundingsTests
from neuropod_core.testing._value_tests import ValueTests

__all__ = ["BackendTests"]


class BackendTests(
    DescriptorTests, ValueTests, OwnershipTests, NativeTests, LifeTests, SurroundingsTests, RefusalTests
):
    """Checks that every backend passes: subclass it, name the `platform`, and give the fixture `write_model`.

    A framework that cannot express a `StandardModel` says so in `not_expressible`, and gives a fixture `sample` with a
    model of its own, on which everything that holds for any model is tried as well.

    Attributes
    ----------
    platform
        The platform of the backend under test; its plugin is installed or registered.
    distribution
        The distribution whose plugin is under test, where several serve the platform.
    known_gaps
        Name of a check -> why the backend cannot pass it. Such a check must fail: a gap that was closed is an error.
    not_expressible
        Standard model -> why the framework has no such model. Checks that need it are expected failures; those that
        hold for any model run on `sample` alone where `StandardModel.ADD` is among them. A `write_model` that finds out
        by itself raises `NotExpressibleError`.
    time_limit_s
        Seconds after which a check that waits for the backend fails.
    load_arguments
        Arguments of `load_neuropod` that all models of the suite are loaded with.
    """
