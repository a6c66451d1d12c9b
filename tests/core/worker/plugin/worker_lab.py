"""A backend that does what its caller says: every way in which a worker can misbehave, one command each."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from neuropod_core import (
    Backend,
    Descriptor,
    Executor,
    InferenceError,
    LoadOptions,
    Names,
    Neuropod,
    Tensors,
    Trust,
    Variant,
    hookimpl,
    results,
)
from neuropod_core.errors import DeadlineError, OutOfDeviceMemoryError, SpecError, TensorMismatchError

neuropod_contract = (1, 1)

Load = Callable[..., Neuropod]


class LabError(InferenceError):
    """An error of a class that only this plugin knows."""


class Lab(Executor):
    def __init__(self, variant: Variant) -> None:
        self.thread_safe = bool(variant.config.get("thread_safe", True))
        self.stateful = bool(variant.config.get("stateful", False))
        self.calls = 0
        self.running = 0
        self.kept: list[object] = []
        self.also: Any = None  # What a command gives beside its result.

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        self.calls += 1
        self.running += 1
        try:
            name, _, argument = str(inputs.get("command", "copy")).partition(":")
            made = COMMANDS[name](self, argument, inputs)
        finally:
            self.running -= 1
        also, self.also = self.also, None
        given = {
            **({} if also is None else {"also": also}),
            "y": made,
            "note": np.full((), f"{name} {self.calls}", dtype=object),
        }
        if name == "part":
            given = {"calls": np.array(self.calls), **given}
        if name == "many":
            given |= {f"y{number}": np.zeros(1) for number in range(int(argument))}
        return given if outputs is None else {name: given[name] for name in outputs}

    def infer_native(self, inputs: Any, outputs: Names = None) -> Any:
        return self.infer(inputs, outputs)

    def close(self) -> None:
        if os.environ.get("LAB_HANGS_IN_CLOSE"):
            time.sleep(60)

    @property
    def description(self) -> MappingProxyType[str, object]:
        return MappingProxyType({"lab": "yes", "pid": os.getpid(), "python": sys.version.split()[0]})


def _x(inputs: Tensors) -> Any:
    return inputs.get("x", np.zeros(0))


def _sleep(lab: Lab, seconds: str, inputs: Tensors) -> Any:
    time.sleep(float(seconds))
    return _x(inputs).copy()


def _spin(lab: Lab, seconds: str, inputs: Tensors) -> Any:
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        pass
    return _x(inputs).copy()


def _kill(lab: Lab, number: str, inputs: Tensors) -> Any:
    os.kill(os.getpid(), int(number))
    time.sleep(30)
    return _x(inputs)


def _segfault(lab: Lab, argument: str, inputs: Tensors) -> Any:
    print("about to read address 0", file=sys.stderr)
    ctypes.string_at(0)
    return _x(inputs)


def _raise(lab: Lab, name: str, inputs: Tensors) -> Any:
    if name == "mismatch":
        raise TensorMismatchError("inputs.x", "float64[3]", "float64[2]", "pass three")
    if name == "memory":
        raise OutOfDeviceMemoryError("no memory", at="cuda:0")
    if name == "spec":
        raise SpecError("ä no spec")
    if name == "deadline":
        raise DeadlineError(3, "it slept")
    if name == "long":
        raise SpecError("\N{SNOWMAN}" * 20_000) from ValueError("\N{SNOWMAN}" * 20_000)
    if name == "interrupt":
        raise KeyboardInterrupt("enough")
    if name == "silence":
        raise KeyboardInterrupt
    if name == "own":
        raise LabError("of my own", at="here")
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise InferenceError("outer") from error


def _write(lab: Lab, argument: str, inputs: Tensors) -> Any:
    try:
        inputs["x"][0] = -1
    except ValueError:
        return np.zeros(1)
    return np.ones(1)


def _grow(lab: Lab, megabytes: str, inputs: Tensors) -> Any:
    lab.kept.append(np.ones(int(megabytes) << 17))
    return np.zeros(1)


def _made(lab: Lab, argument: str, inputs: Tensors) -> Any:
    made = results.empty(_x(inputs).shape, np.float64)
    made[...] = _x(inputs)
    return made


def _part(lab: Lab, argument: str, inputs: Tensors) -> Any:
    return _made(lab, argument, inputs)[:-1]


def _mixed(lab: Lab, argument: str, inputs: Tensors) -> Any:
    """Give one result that was made in place, and before it one that was not and is written over it."""
    lab.also = np.full(_x(inputs).shape, -1.0)
    made = _made(lab, argument, inputs)
    return made[1:] if argument == "slice" else made


def _print(lab: Lab, text: str, inputs: Tensors) -> Any:
    print(text)
    print(text, file=sys.stderr)
    return np.zeros(1)


def _assault(lab: Lab, how: str, inputs: Tensors) -> Any:
    """Do to every socket of the process, the parent's ends of which are not ours, what no worker does."""
    for number in map(int, os.listdir("/proc/self/fd") if sys.platform == "linux" else range(3, 256)):
        try:
            link = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        with link, suppress(OSError):
            if how == "shutdown":
                link.shutdown(socket.SHUT_RDWR)
            else:
                link.send(np.random.default_rng(int(how)).bytes(1 << 12), socket.MSG_DONTWAIT)
    return _x(inputs).copy()


def _settings(lab: Lab, name: str, inputs: Tensors) -> Any:
    found: dict[str, Callable[[], float]] = {
        "pid": os.getpid,
        "cpus": lambda: len(os.sched_getaffinity(0)),
        "nice": lambda: os.nice(0),
        "threads": threading.active_count,
        "interrupts": lambda: float(signal.getsignal(signal.SIGINT) == signal.SIG_IGN),
        "running": lambda: lab.running,
        "told": lambda: float(_BACKEND.told.get("threads", 0)),
        "teller": lambda: float(_BACKEND.told.get("pid", 0)),
    }
    return np.array([float(found[name]())])


COMMANDS: dict[str, Callable[[Lab, str, Tensors], Any]] = {
    "copy": lambda lab, _, inputs: _x(inputs).copy(),
    "double": lambda lab, _, inputs: _x(inputs) * 2,
    "repeat": lambda lab, times, inputs: np.tile(_x(inputs), int(times)),
    "exit": lambda lab, code, inputs: os._exit(int(code)),
    "leave": lambda lab, code, inputs: sys.exit(int(code)),
    "environment": lambda lab, name, inputs: np.array([float(os.environ[name])]),
    "wrong": lambda lab, _, inputs: np.zeros(1, np.float32),
    "list": lambda lab, _, inputs: [1.0],  # What no executor may return.
    "view": lambda lab, _, inputs: _x(inputs)[::-1],
    "sleep": _sleep,
    "spin": _spin,
    "kill": _kill,
    "segfault": _segfault,
    "raise": _raise,
    "write": _write,
    "assault": _assault,
    "grow": _grow,
    "made": _made,
    "part": _part,
    "many": lambda lab, _, inputs: _x(inputs).copy(),
    "mixed": _mixed,
    "print": _print,
    "read": lambda lab, path, inputs: np.array([float(len(Path(path).read_bytes()))]),
    "settings": _settings,
}


class LabBackend(Backend):
    descriptor = Descriptor(platform="lab", trust=Trust.DATA, options={"flavour": "Anything at all."})
    told: Mapping[str, Any] = MappingProxyType({})

    def thread_settings(self) -> Mapping[str, Any]:
        return {"threads": 3, "pid": os.getpid()}

    def apply_thread_settings(self, settings: Mapping[str, Any]) -> None:
        self.told = settings

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        fault = variant.config.get("fault")
        if fault == "exit":
            print("no luck today", file=sys.stderr)
            os._exit(7)
        if fault == "sleep":
            time.sleep(60)
        if fault == "raise":
            raise SpecError("the lab is closed")
        return Lab(variant)


_BACKEND = LabBackend()


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    return _BACKEND


def said(command: str, x: object = None) -> Tensors:
    """Give the inputs of a call."""
    inputs: Tensors = {"command": np.full((), command, dtype=object)}
    if x is not None:
        inputs["x"] = np.asarray(x, np.float64)
    return inputs
