"""The one border at which errors of ONNX Runtime become ours.

Its classes come and go with versions and share no base but `Exception`, so they are known here by name.
"""

from __future__ import annotations

import re

from neuropod_core.errors import InferenceError, ModelLoadError, NeuropodError, OutOfDeviceMemoryError

__all__ = ["call_failed", "load_failed", "reason"]

_LONGEST = 400
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE = re.compile(r"/onnxruntime_src/\S+ ")
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|bad_alloc|OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|bfc_arena",
    re.IGNORECASE,
)

_UPGRADE = "run: pip install --upgrade onnxruntime; or export the model for an older version"
_REMEDIES = {
    "No Op registered for": _UPGRADE,
    "nsupported model IR version": _UPGRADE,
    "is under development": _UPGRADE,
    "is not a registered function/op": "package it with the library that has the operator: custom_ops=[...]",
    "onflicting with a registered kernel": "leave one of the libraries out of custom_ops: both have this operator",
}

_AT_LOAD = {
    "InvalidProtobuf": "the file is no ONNX model",
    "InvalidGraph": "the graph is invalid",
    "NotImplemented": "an operator is not implemented for these types or this provider",
    "NoSuchFile": "a file is missing",
    "EPFail": "the execution provider failed",
    "EngineError": "the execution provider failed",
}


def load_failed(error: Exception, at: str) -> NeuropodError:
    """Say why ONNX Runtime would not open a model."""
    if isinstance(error, NeuropodError):
        return error
    what = _AT_LOAD.get(type(error).__name__, "ONNX Runtime refused the model")
    remedy = next((text for words, text in _REMEDIES.items() if words in str(error)), "")
    return ModelLoadError(f"{what}: {reason(error)}", at=at, remedy=remedy)


def call_failed(error: Exception) -> NeuropodError:
    """Say why a call failed."""
    if isinstance(error, NeuropodError):
        return error
    text = reason(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return OutOfDeviceMemoryError(f"no memory left for this call: {text}", remedy="pass a smaller batch")
    return InferenceError(f"ONNX Runtime failed: {text}")


def reason(error: Exception) -> str:
    """Give the words of `error` on one line, without the places in ONNX Runtime's sources."""
    text = _SOURCE.sub("", _PREFIX.sub("", str(error)))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
