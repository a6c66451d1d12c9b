"""The contract of a placement."""

from __future__ import annotations

from abc import ABC, abstractmethod

from neuropod_core.backend import Backend, Executor, LoadOptions
from neuropod_core.variants import Variant


class Placement(ABC):
    """A place where executors run."""

    @abstractmethod
    def start(self, backend: Backend, variant: Variant, options: LoadOptions) -> Executor:
        """Load `variant` there, and give an executor that may be called from any thread.

        Raises
        ------
        BackendError
            If the backend cannot load it.
        """
