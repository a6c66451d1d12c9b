"""Opens ONNX Runtime sessions as the caller asked, and in no other way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_core.custom_ops import registering
from neuropod_core.errors import OptionError, shown
from neuropod_onnx._errors import load_failed, reason
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

__all__ = ["open_session", "run_options"]

_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_MODES = {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}
_FATAL = 4


def open_session(path: Path, options: LoadOptions, custom_ops: tuple[Path, ...] = ()) -> Any:
    """Open the model at `path` on the providers that `options` ask for.

    Raises
    ------
    DeviceError
        If one of them cannot be had and no fallback was asked for.
    ModelLoadError, OptionError
    """
    providers = providers_for(options)
    may_fall_back = options.flag("fallback") or is_automatic(options)
    prepared = _session_options(options, custom_ops)
    try:
        return _strict_session(path, prepared, providers)
    except Exception as error:
        if providers == [(CPU, {})]:
            raise load_failed(error, path.name) from error
        on_cpu = _on_cpu(path, _session_options(options, custom_ops))
        if may_fall_back:
            return on_cpu
        raise could_not_start(providers, error) from error


def _on_cpu(path: Path, prepared: Any) -> Any:
    """Open the model on the CPU: as the fallback, or to learn whether the model or the provider was to blame."""
    try:
        return _strict_session(path, prepared, [(CPU, {})])
    except Exception as error:
        raise load_failed(error, path.name) from error


def run_options(options: LoadOptions) -> Any:
    """Give the options of every call, made once: building them anew costs more than a microsecond a call."""
    import onnxruntime

    made = onnxruntime.RunOptions()
    made.log_severity_level = _severity(options)
    return made


def _strict_session(path: Path, prepared: Any, providers: Providers) -> Any:
    import onnxruntime

    absent = missing(providers, onnxruntime.get_available_providers())
    if absent is not None:
        raise absent
    if CUDA in dict(providers):
        _preload_cuda()
    session = _strict_class()(str(path), prepared, providers=providers, read_config_from_model=0)
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


def _session_options(options: LoadOptions, custom_ops: tuple[Path, ...]) -> Any:
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.log_severity_level = _severity(options)
    made.intra_op_num_threads = options.integer("intra_op_threads") or 0
    made.inter_op_num_threads = options.integer("inter_op_threads") or 0
    level = _one_of(options, "graph_optimization_level", _LEVELS, "all")
    made.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    made.execution_mode = getattr(onnxruntime.ExecutionMode, _one_of(options, "execution_mode", _MODES, "sequential"))
    for key, value in _entries(options).items():
        _add_entry(made, key, value)
    for library in custom_ops:
        _register(made, library)
    return made


def _entries(options: LoadOptions) -> dict[str, str]:
    spinning = "1" if options.flag("allow_spinning", default=True) else "0"
    entries = {"session.load_model_format": "ONNX"}  # Never a guess from the file's first bytes.
    if "allow_spinning" in options.values:
        entries |= {f"session.{kind}_op.allow_spinning": spinning for kind in ("intra", "inter")}
    given = options.values.get("session_config", {})
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for pair in given.items() for part in pair):
        raise OptionError(f"option 'session_config' is a table of text to text, not {shown(given)}")
    return entries | dict(given)


def _add_entry(made: Any, key: str, value: str) -> None:
    try:
        made.add_session_config_entry(key, value)
    except Exception as error:
        raise OptionError(f"ONNX Runtime refused {shown(key)}: {reason(error)}", at="session_config") from error


def _register(made: Any, library: Path) -> None:
    """Add the operators of a library to one session: others do not see them, so any number may bring the same."""
    import onnxruntime

    with registering(f"onnxruntime {onnxruntime.__version__}", library):
        made.register_custom_ops_library(str(library))


def _severity(options: LoadOptions) -> int:
    severity = options.integer("log_severity", _FATAL, least=0)
    if severity is None or severity > _FATAL:
        raise OptionError(f"option 'log_severity' is an int from 0 to {_FATAL}, not {shown(severity)}")
    return severity


def _one_of(options: LoadOptions, name: str, known: Mapping[str, str], default: str) -> str:
    value = options.text(name, default)
    if value is None or value not in known:
        raise OptionError(f"option {name!r} is one of {', '.join(known)}, not {shown(value)}")
    return known[value]
