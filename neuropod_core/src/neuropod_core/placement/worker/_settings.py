"""The settings of `Worker`, held against what they may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from neuropod_core.errors import OptionError, shown

if TYPE_CHECKING:
    from neuropod_core.placement.worker._placement import Worker

_ANY = 1 << 60
_NUMBERS = {  # The least and the most that it may be.
    "replicas": (1, 1000),
    "slots": (1, 100),  # Each may take two of the 250 descriptors that go with one message.
    "shared_memory_bytes": (1 << 16, _ANY),
    "restarts": (0, _ANY),
    "restart_after_calls": (1, _ANY),
    "restart_above_bytes": (1, _ANY),
    "threads": (1, 1 << 16),
    "nice": (-40, 40),
    "memory_limit_bytes": (1, _ANY),
}
_MAY_BE_NONE = ("slots", "restart_after_calls", "restart_above_bytes", "threads", "memory_limit_bytes")


def check_settings(worker: Worker) -> None:
    """Hold every setting against what it may be.

    Raises
    ------
    OptionError
        If one is nothing that it may be.
    """
    for name, (least, most) in _NUMBERS.items():
        value: object = getattr(worker, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        if type(value) is not int or not least <= value <= most:
            _refuse(worker, name, f"an int from {least} to {most}" + (" or None" if name in _MAY_BE_NONE else ""))
    for name, (fits, what) in _OTHERS.items():
        if not fits(getattr(worker, name)):
            _refuse(worker, name, what)
    if worker.cpus is not None:
        _check_cpus(worker.cpus)
    for name in ("cpus", "gpus"):
        _check_count(name, getattr(worker, name) or (), worker.replicas)


def _check_count(name: str, entries: Sequence[object], replicas: int) -> None:
    """Refuse entries that no replica would take."""
    if len(entries) > replicas:
        what = f"Worker({name}=...) has {len(entries)} entries for {replicas} replica{'s' * (replicas > 1)}"
        raise OptionError(what, at=name, remedy=f"pass replicas={len(entries)}, or one entry for each replica")


def _check_cpus(cpus: Sequence[Sequence[int]]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise OptionError("this system lets nobody choose CPUs", at="cpus", remedy="leave cpus out")
    there = os.sysconf("SC_NPROCESSORS_CONF")
    if (largest := max(map(max, cpus))) >= there:
        raise OptionError(
            f"this machine has CPUs 0 to {there - 1}, not {largest}", at="cpus", remedy="choose among those"
        )


def _refuse(worker: Worker, name: str, what: str) -> None:
    said = f"Worker({name}=...) is {what}, not {shown(getattr(worker, name))}"
    raise OptionError(said, at="placement", remedy=f"pass one, or leave {name} out")


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and not isnan(value) and value > 0  # type: ignore[arg-type, operator]  # a number


def _are_cpus(value: object) -> bool:
    return value is None or (_is_list(value) and all(_is_list(each) and all(map(_is_cpu, each)) for each in value))  # type: ignore[attr-defined]  # a list


def _is_cpu(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_gpus(value: object) -> bool:
    return value is None or (_is_list(value) and all(isinstance(each, str) or _is_cpu(each) for each in value))  # type: ignore[attr-defined]  # a list


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0


def _are_variables(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_name(name) and _is_text(text) for name, text in value.items())


def _is_name(value: object) -> bool:
    return _is_text(value) and bool(value) and "=" not in value  # type: ignore[operator]  # a str


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


_OTHERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "start_timeout_s": (_is_time, "a number of seconds above 0"),
    "kills_late": (lambda value: type(value) is bool, "True or False"),
    "cpus": (_are_cpus, "None, or for each replica a list of CPU numbers"),
    "gpus": (_are_gpus, "None, or for each replica what CUDA_VISIBLE_DEVICES says, an int or a str"),
    "environment": (
        lambda value: value is None or (isinstance(value, str | Path) and bool(str(value))),
        "None, 'package', or the path of an interpreter or of a virtual environment",
    ),
    "variables": (_are_variables, "a mapping of names to texts, no name empty or with '=', none of them with a NUL"),
}
