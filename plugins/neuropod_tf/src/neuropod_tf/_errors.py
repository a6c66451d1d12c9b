"""TensorFlow's errors -> ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from neuropod_core import InferenceError, ModelLoadError, NeuropodError, OutOfDeviceMemoryError

__all__ = ["inference_error", "loading", "summary"]

_NODE = re.compile(r"\{\{(?:function_)?node ([^}]*)\}\}")
_NOISE = re.compile(r"^(?:Graph execution error:|Detected at node .*|Node: '.*'|\s*)$")
_LONGEST = 500


def inference_error(error: Exception) -> InferenceError:
    """Give our error for one that a call raised."""
    what, at = f"TensorFlow failed: {summary(error)}", _node(error)
    return OutOfDeviceMemoryError(what, at) if _is_out_of_memory(error) else InferenceError(what, at)


@contextmanager
def loading(at: str) -> Iterator[None]:
    """Turn whatever TensorFlow raises while it opens the artefact at `at` into a `ModelLoadError`."""
    try:
        yield
    except NeuropodError:
        raise
    except Exception as error:  # TensorFlow refuses a graph by ValueError, KeyError, OpError and others.
        raise ModelLoadError(f"TensorFlow refuses it: {summary(error)}", at=at) from error


def summary(error: Exception) -> str:
    """Give the telling line of what TensorFlow says, without its list of nodes and its stack."""
    lines = [line.strip() for line in _text(error).partition("\n\t [[")[0].splitlines() if not _NOISE.match(line)]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0] == "in user code:" else _NODE.sub("", lines[0]).strip()
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _text(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(getattr(error, "message", None) or error)


def _node(error: Exception) -> str:
    found = _NODE.findall(str(getattr(error, "message", "")))
    return f"node {found[-1].strip()!r}" if found else ""


def _is_out_of_memory(error: Exception) -> bool:
    from tensorflow.errors import ResourceExhaustedError

    return isinstance(error, MemoryError) or (isinstance(error, ResourceExhaustedError) and "OOM" in str(error))
