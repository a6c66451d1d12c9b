"""The plugin: opens artefacts of the platform ``echo``."""

from __future__ import annotations

import json

import numpy as np

from neuropod_core import Backend, Descriptor, Executor, LoadOptions, Names, Tensors, Trust, Variant, hookimpl
from neuropod_core.errors import InferenceError, ModelLoadError
from neuropod_echo.language import Expression, compiled

neuropod_contract = (1, 0)


class EchoExecutor(Executor):
    """Evaluates the expressions of one model."""

    def __init__(self, model: dict[str, Expression], *, strict: bool) -> None:
        self._model, self._strict = model, strict

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Evaluate what was asked for, and copy it: an expression may be an input, or a constant of the model."""
        model = self._model
        try:
            with np.errstate(all="raise" if self._strict else "ignore"):
                return {name: np.array(model[name](inputs)) for name in (model if outputs is None else outputs)}
        except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise InferenceError(f"the model failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Let go of the constants; a call that still runs has its own hold on them."""
        self._model = {}


class EchoBackend(Backend):
    """Opens ``0/data/model.json``."""

    descriptor = Descriptor(
        platform="echo",
        trust=Trust.DATA,
        options={"strict": "whether overflow and invalid arithmetic are errors (default: false)"},
        packagers={"create_echo_neuropod": "neuropod_echo.packagers:create_echo_neuropod"},
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Compile the expressions."""
        if variant.custom_ops:
            raise ModelLoadError("an echo model has no custom operators", at=variant.name)
        content = variant.artefact("data/model.json").read_bytes()
        try:
            model = compiled(json.loads(content), variant.problem)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ModelLoadError(f"is no echo model: {error}", at=variant.name, remedy="package it again") from error
        return EchoExecutor(model, strict=options.flag("strict"))


@hookimpl
def neuropod_backend() -> Backend:
    """Give the backend of the one platform that this plugin serves."""
    return EchoBackend()
