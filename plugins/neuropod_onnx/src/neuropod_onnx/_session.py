"""Opens ONNX Runtime sessions as the caller asked, and in no other way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_onnx._errors import load_failed
from neuropod_onnx._kept import KeptModel
from neuropod_onnx._libraries import add_providers, plugin_devices, register_libraries
from neuropod_onnx._providers import (
    CPU,
    CUDA,
    Providers,
    check_running,
    could_not_start,
    has_cuda_driver,
    is_automatic,
    missing,
    providers_for,
)

__all__ = ["open_session"]


def open_session(path: Path, options: LoadOptions, prepare: Callable[[], Any], kept: KeptModel | None = None) -> Any:
    """Open the model at `path` on the providers that `options` ask for.

    Parameters
    ----------
    path, options
        The model, and what the caller wants.
    prepare
        Gives new session options for each attempt.
    kept
        Where the optimized graph is kept, if it is; for sessions on the CPU alone.

    Raises
    ------
    DeviceError
        If one of them cannot be had and no fallback was asked for.
    ModelLoadError, OptionError
    """
    register_libraries(options)
    providers = providers_for(options)
    may_fall_back = options.flag("fallback") or is_automatic(options)
    prepared = prepare()
    if kept is not None and providers == [(CPU, {})] and (session := _kept_session(path, prepare, kept)) is not None:
        return session
    try:
        return _strict_session(path, prepared, providers)
    except Exception as error:
        if providers == [(CPU, {})]:
            raise load_failed(error, path.name) from error
        on_cpu = _on_cpu(path, prepare())
        if may_fall_back:
            return on_cpu
        raise could_not_start(providers, error) from error


def _kept_session(path: Path, prepare: Callable[[], Any], kept: KeptModel) -> Any:
    """Open the optimized graph, or the model and keep its optimized graph; None where that fails, for any reason."""
    import onnxruntime

    if (file := kept.path) is not None:
        prepared = prepare()
        prepared.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with suppress(Exception):
            return _strict_session(file, prepared, [(CPU, {})])
        kept.forget()
    with suppress(Exception), kept.writing() as partial:
        if partial is not None:
            prepared = prepare()
            prepared.optimized_model_filepath = str(partial)
            return _strict_session(path, prepared, [(CPU, {})])
    return None


def _on_cpu(path: Path, prepared: Any) -> Any:
    """Open the model on the CPU: as the fallback, or to learn whether the model or the provider was to blame."""
    try:
        return _strict_session(path, prepared, [(CPU, {})])
    except Exception as error:
        raise load_failed(error, path.name) from error


def _strict_session(path: Path, prepared: Any, providers: Providers) -> Any:
    import onnxruntime

    built_in = onnxruntime.get_available_providers()
    devices = plugin_devices() if missing(providers, built_in) else {}
    absent = missing(providers, [*built_in, *devices])
    if absent is not None:
        raise absent
    if CUDA in dict(providers):
        _preload_cuda()
    named: Providers | None = providers
    if any(name in devices for name, _ in providers):
        add_providers(prepared, providers, devices)
        named = None
    session = _strict_class()(str(path), prepared, providers=named, read_config_from_model=0)
    check_running(providers, session.get_providers())
    return session


def _preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries of Python packages, which the dynamic linker does not find by itself."""
    import onnxruntime

    if has_cuda_driver() and hasattr(onnxruntime, "preload_dlls"):
        with suppress(Exception):  # What is missing shows when the session starts.
            onnxruntime.preload_dlls()


@lru_cache(maxsize=1)
def _strict_class() -> Any:
    import onnxruntime

    class StrictSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime is not annotated
        """A session that never turns to other providers by itself; versions before 1.20 have no switch for that."""

        _enable_fallback = property(lambda _self: False, lambda _self, _value: None)

    return StrictSession
