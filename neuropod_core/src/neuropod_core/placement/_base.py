"""The contract of a placement."""

from __future__ import annotations

from abc import ABC, abstractmethod

from neuropod_core.backend import Backend, Executor, LoadOptions
from neuropod_core.errors import SandboxError
from neuropod_core.package import Package
from neuropod_core.plugins import backend_for
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant


class Placement(ABC):
    """A place where executors run."""

    def sandboxed(self) -> Placement:
        """Give the same placement with the model in a sandbox, whose walls stand in for trust.

        Raises
        ------
        SandboxError
            If it has none, as is the default.
        """
        missing = ("walls around a model that runs in this process",)
        raise SandboxError(missing, at="trust='sandboxed'", remedy="pass placement='worker'")

    def backend(self, package: Package, distribution: str | None, trust: Trust) -> Backend:
        """Find the backend that opens `package` where it will run: the only one, or that of `distribution`.

        Raises
        ------
        BackendError
            If there is none, or it cannot be used.
        TrustError
            If finding it takes more than `trust`.
        """
        del trust
        return backend_for(package.config.platform, distribution)

    @abstractmethod
    def start(self, backend: Backend, variant: Variant, options: LoadOptions) -> Executor:
        """Load `variant` there, and give an executor that may be called from any thread.

        Raises
        ------
        BackendError
            If the backend cannot load it.
        """
