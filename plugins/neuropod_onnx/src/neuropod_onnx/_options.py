"""ONNX Runtime's session and run options, made of the options of `load_neuropod`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import OptionError, shown
from neuropod_onnx._errors import reason

__all__ = ["FATAL", "run_options", "session_options"]

FATAL = 4
"""The severity at which ONNX Runtime is as good as silent."""

_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
_MODES = {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}
_SWITCHES = {
    "memory_pattern": "enable_mem_pattern",
    "memory_reuse": "enable_mem_reuse",
    "memory_arena": "enable_cpu_mem_arena",
    "deterministic": "use_deterministic_compute",
}


def session_options(options: LoadOptions, custom_ops: tuple[Path, ...], dimensions: Mapping[str, int]) -> Any:
    """Give new options for one session.

    Parameters
    ----------
    options
        What the caller asked for.
    custom_ops
        Libraries of operators to register.
    dimensions
        The model's names of free dimensions, with the lengths that they shall have.

    Raises
    ------
    CustomOpError, OptionError
    """
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.log_severity_level = _severity(options)
    made.intra_op_num_threads = options.integer("intra_op_threads") or 0
    made.inter_op_num_threads = options.integer("inter_op_threads") or 0
    level = _one_of(options, "graph_optimization_level", _LEVELS, "all")
    made.graph_optimization_level = _level(onnxruntime, level)
    made.execution_mode = getattr(onnxruntime.ExecutionMode, _one_of(options, "execution_mode", _MODES, "sequential"))
    for name, attribute in _SWITCHES.items():
        setattr(made, attribute, options.flag(name, default=getattr(made, attribute)))
    for name, length in dimensions.items():
        made.add_free_dimension_override_by_name(name, length)
    for key, value in _entries(options).items():
        _add_entry(made, key, value)
    for library in custom_ops:
        _register(made, library)
    return made


def run_options(options: LoadOptions) -> Any:
    """Give the options of every call, made once: building them anew costs more than a microsecond a call."""
    import onnxruntime

    made = onnxruntime.RunOptions()
    made.log_severity_level = _severity(options)
    return made


def _level(onnxruntime: Any, name: str) -> Any:
    level = getattr(onnxruntime.GraphOptimizationLevel, name, None)
    if level is None:
        what = f"onnxruntime {onnxruntime.__version__} has no optimization level 'layout'"
        raise OptionError(what, at="graph_optimization_level", remedy="use 'extended' or 'all'")
    return level


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

    from neuropod_core.custom_ops import registering  # Since contract 1.1; models without libraries need less.

    with registering(f"onnxruntime {onnxruntime.__version__}", library):
        made.register_custom_ops_library(str(library))


def _severity(options: LoadOptions) -> int:
    severity = options.integer("log_severity", FATAL, least=0)
    if severity is None or severity > FATAL:
        raise OptionError(f"option 'log_severity' is an int from 0 to {FATAL}, not {shown(severity)}")
    return severity


def _one_of(options: LoadOptions, name: str, known: Mapping[str, str], default: str) -> str:
    value = options.text(name, default)
    if value is None or value not in known:
        raise OptionError(f"option {name!r} is one of {', '.join(known)}, not {shown(value)}")
    return known[value]
