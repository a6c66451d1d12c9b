"""A plugin whose models do next to nothing: what is left is the way there and back."""

from __future__ import annotations

from time import sleep

from neuropod_core import (
    Backend,
    Descriptor,
    Executor,
    LoadOptions,
    Names,
    Problem,
    Tensors,
    Trust,
    Variant,
    hookimpl,
    results,
)

__all__ = ["COPYING", "PROBLEM", "WAITING", "WAIT_S", "neuropod_backend"]

COPYING, WAITING = "copying", "waiting"
PROBLEM = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}, name="copy")
WAIT_S = 0.005

neuropod_contract = (1, 1)


class Copying(Executor):
    """Gives a copy of what it gets, written once: where the caller will read it."""

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Copy."""
        del outputs
        x = inputs["x"]
        y = results.empty(x.shape, x.dtype)
        y[...] = x
        return {"y": y}

    def close(self) -> None:
        """Hold nothing."""


class Waiting(Copying):
    """Takes its time, and one call after the other."""

    thread_safe = False

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Sleep, then copy."""
        sleep(WAIT_S)
        return super().infer(inputs, outputs)


class CopyingBackend(Backend):
    """Opens packages in which nothing is."""

    def __init__(self, platform: str, kind: type[Executor]) -> None:
        self.descriptor, self._kind = Descriptor(platform=platform, trust=Trust.DATA), kind

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Make the executor."""
        del variant, options
        return self._kind()


_BACKENDS = {name: CopyingBackend(name, kind) for name, kind in {COPYING: Copying, WAITING: Waiting}.items()}


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend of a platform."""
    return _BACKENDS[platform]
