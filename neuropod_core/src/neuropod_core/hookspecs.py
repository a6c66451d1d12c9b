"""The hooks of neuropod, for `pluggy`, and the entry-point groups in which plugins are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from neuropod_core.backend import Backend
    from neuropod_core.model import Neuropod

__all__ = [
    "BACKENDS_GROUP",
    "OBSERVERS_GROUP",
    "PROJECT",
    "TESTS_GROUP",
    "hookimpl",
    "neuropod_backend",
    "neuropod_call_failed",
    "neuropod_model_loaded",
]

PROJECT = "neuropod"
"""The project name of the hooks."""

BACKENDS_GROUP = "neuropod.backends"
"""Entry points named after the platform that they serve."""

OBSERVERS_GROUP = "neuropod.observers"
"""Entry points of any name; each object implements hooks that watch."""

TESTS_GROUP = "neuropod.tests"
"""Entry points named after a platform: the class, ``module:Class``, of the conformance suite that a plugin ships."""

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)
"""Marks the functions of a plugin that answer a hook."""


@hookspec(firstresult=True)
def neuropod_backend(platform: str) -> Backend:  # type: ignore[empty-body]  # a specification has no body
    """Give the backend that opens artefacts of `platform`.

    Asked of the one plugin whose entry point is named `platform`. Imports no framework.
    """


@hookspec
def neuropod_model_loaded(model: Neuropod) -> None:
    """Watch: a model was loaded and can be called. Asked of observers; what they raise is logged and dropped."""


@hookspec
def neuropod_call_failed(model: Neuropod, error: Exception) -> None:
    """Watch: a call raised `error`, which goes on to the caller. Never asked while calls succeed."""
