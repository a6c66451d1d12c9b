"""The model of the harness: it says of every answer whose it is, and breaks in every way on command."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

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
    plugins,
    results,
)
from neuropod_core.testing import fake_package

neuropod_contract = (1, 1)

PROBLEM = Problem.of(
    {
        "ticket": "int64[]",
        "command": {"dtype": "string", "shape": [], "optional": True},
        "x": {"dtype": "float64", "shape": ["N"], "optional": True},
        "words": {"dtype": "string", "shape": ["K"], "optional": True},
    },
    {"ticket": "int64[]", "y": "float64[M]", "words": "string[L]", "pid": "int64[]"},
    name="fault_lab",
)


def _bytes(number: str) -> None:
    np.ones(int(number), np.uint8)


def _closes(which: str) -> None:
    os.closerange(3, 1 << 16)
    time.sleep(30)


def _stops(seconds: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(30)


def _signals(number: str) -> None:
    os.kill(os.getpid(), int(number))
    time.sleep(30)


COMMANDS: dict[str, Callable[[str], object]] = {
    "": lambda _: None,
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "signal": _signals,
    "segfault": lambda _: ctypes.string_at(0),
    "exit": lambda code: os._exit(int(code)),
    "leave": lambda code: sys.exit(int(code)),
    "abort": lambda _: os.abort(),
    "stop": _stops,
    "allocate": _bytes,
    "close": _closes,
    "raise": lambda words: (_ for _ in ()).throw(ValueError(words)),
}


class FaultLab(Executor):
    """Of two workers, one runs a call at a time."""

    def __init__(self) -> None:
        self.thread_safe = os.getpid() % 2 == 0

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        ticket = int(inputs["ticket"])
        name, _, argument = str(inputs["command"][()]).partition(":") if "command" in inputs else ("", "", "")
        COMMANDS[name](argument)
        x = inputs.get("x", np.zeros(0))
        y = results.empty(x.shape, np.float64) if ticket % 2 else np.empty(x.shape)
        np.add(x, ticket, out=y)
        words = [f"{ticket}:{word}" for word in inputs.get("words", np.zeros(0, object)).tolist()]
        return {
            "ticket": np.array(ticket),
            "y": y,
            "words": np.array(words, object),
            "pid": np.array(os.getpid()),
        }

    def close(self) -> None:
        pass


class FaultLabBackend(Backend):
    descriptor = Descriptor(platform="fault_lab", trust=Trust.DATA)

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        return FaultLab()


_BACKEND = FaultLabBackend()


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    return _BACKEND


def register() -> None:
    """Make the plugin known here; workers import it by the same name, from the same path."""
    plugins.register(sys.modules[__name__], "fault_lab")


def write_package(folder: Path) -> Path:
    """Write the package of the model."""
    return fake_package(folder / "fault_lab.neuropod", "fault_lab", PROBLEM, {}, name="fault_lab")
