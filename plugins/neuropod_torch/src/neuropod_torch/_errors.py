"""What torch raises, as neuropod says it: the only place where one becomes the other."""

from __future__ import annotations

import re

import torch

from neuropod_core.errors import InferenceError, ModelLoadError, NeuropodError, OutOfDeviceMemoryError

__all__ = ["inference_error", "load_error", "reason"]

_LONGEST_REASON = 300
_RAISED = re.compile(r"(?:RuntimeError|torch\.jit\.Error|builtins\.\w+): ")

_LOAD_REMEDIES = (
    ("Legacy model format", "torch before 1.4 wrote it: save it again in a torch from 1.4 to 1.13, package that file"),
    ("Unknown builtin op", "name the library that registers this operator in custom_ops when you package the model"),
    ("PytorchStreamReader", "the file is no TorchScript archive: write it by torch.jit.save"),
    ("constants.pkl", "the file holds weights without a program: write it by torch.jit.save, not torch.save"),
    ("CUDA", 'load it with device="cuda", or save it from the CPU'),
)


def reason(error: BaseException) -> str:
    """Give the part of a message of torch that says what went wrong: no stack of TorchScript or C++, one line."""
    lines = [line.strip() for line in _without_stack(str(error)).splitlines()]
    said = [line for line in lines if line and not _is_source_position(line)]
    text = " ".join(_raised(said) or said[:2]) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."


def inference_error(error: Exception) -> NeuropodError:
    """Translate what one call raised."""
    if isinstance(error, NeuropodError):
        return error
    if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
        return OutOfDeviceMemoryError(
            f"torch has no memory left for this call: {reason(error)}", remedy="call it with a smaller batch"
        )
    return InferenceError(f"torch failed in the model: {reason(error)}")


def load_error(error: Exception, at: str) -> NeuropodError:
    """Translate what opening an archive raised."""
    if isinstance(error, NeuropodError):
        return error
    remedy = next((remedy for sign, remedy in _LOAD_REMEDIES if sign in str(error)), "")
    return ModelLoadError(f"torch {torch.__version__} cannot open the model: {reason(error)}", at, remedy)


def _raised(lines: list[str]) -> list[str]:
    """Give what the last exception of a stack of TorchScript says; nothing if there is no such stack."""
    starts = [index for index, line in enumerate(lines) if _RAISED.match(line)]
    if not starts:
        return []
    first, *more = lines[starts[-1] :]
    return [_RAISED.sub("", first), *more[:1]]


def _without_stack(text: str) -> str:
    return re.split(r"\n\s*(?:Exception raised from |C\+\+ CapturedTraceback|frame #0)", text)[0]


def _is_source_position(line: str) -> bool:
    return bool(
        line.startswith(('File "', "Traceback of TorchScript", "The following operation failed", "~"))
        or "<--- HERE" in line
        or set(line) <= {"~", " "}
    )
