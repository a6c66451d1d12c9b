"""Modules written down as TorchScript, saved, and opened by the backend as a package would be."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from neuropod_core.backend import LoadOptions
from neuropod_core.problem import Problem
from neuropod_core.variants import Variant
from neuropod_torch.plugin import TorchScriptBackend

Opened = Callable[..., Any]


class Holder(torch.nn.Module):
    """What modules of the tests keep: a weight, a buffer, attributes, containers, and the `LAYERS` that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(16, dtype=torch.float32).reshape(4, 4) / 8)
        self.register_buffer("buffer", torch.arange(4, dtype=torch.float32))
        self.kept = torch.zeros(3, 4)
        self.calls = 0
        self.history = [torch.zeros(3, 4)]
        self.sizes = [[0]]
        self.table = {"t": torch.ones(3, 4)}


LAYERS = {
    "linear": lambda: torch.nn.Linear(4, 4),
    "norm": lambda: torch.nn.BatchNorm1d(4),
    "drop": lambda: torch.nn.Dropout(0.5),
    "drop_in_place": lambda: torch.nn.Dropout(0.5, inplace=True),
    "lstm": lambda: torch.nn.LSTM(4, 4),
    "unseen": torch.nn.Identity,
}


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(7)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    """Save a module (a source of ``forward``, or a module) as ``0/data/model.pt``; gives the folder."""
    numbers = itertools.count()

    def save(module: Any) -> Path:
        folder = tmp_path / str(next(numbers)) / "0"
        (folder / "data").mkdir(parents=True)
        with without_announcements():
            torch.jit.save(scripted(module), str(folder / "data" / "model.pt"))
        return folder

    return save


@pytest.fixture
def announced() -> Any:
    """Give `without_announcements`: test files are no package and cannot import it."""
    return without_announcements


@pytest.fixture
def by_hand() -> Callable[[Path], Any]:
    """Open a saved module as torch does, in evaluation mode."""

    def open_(folder: Path) -> Any:
        with without_announcements():
            return torch.jit.load(folder / "data" / "model.pt").eval()

    return open_


@pytest.fixture
def opened(saved: Callable[[Any], Path]) -> Iterator[Opened]:
    """Open a module, or the folder of a saved one, for a problem as an executor."""
    executors = []

    def open_(module: Any, inputs: Any, outputs: Any, device: str = "cpu", **options: Any) -> Any:
        folder = module if isinstance(module, Path) else saved(module)
        variant = Variant("torchscript", folder, Problem.of(inputs, outputs), "test")
        executors.append(TorchScriptBackend().load(variant, LoadOptions(device, options)))
        return executors[-1]

    yield open_
    for executor in executors:
        executor.close()


@contextmanager
def without_announcements() -> Iterator[None]:
    """Only where a test itself calls `torch.jit`: the library has to silence its own calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield


def scripted(module: Any) -> Any:
    """Script a module; a text is the ``forward`` of a `Holder`."""
    if not isinstance(module, str):
        return module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module)
    holder = type("Holder", (Holder,), {})()  # a class of its own: a type has one `forward`
    for name, layer in LAYERS.items():
        if f"self.{name}(" in module:
            holder.add_module(name, layer())
    script = torch.jit.script(holder)
    script.define(module)
    return script


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the element types of compiled identities, some seconds each, to the long run; one of them stays."""
    for item in items:
        is_compiled = "test_conformance_aoti.py" in item.nodeid and "numbers_come_back" in item.name
        if is_compiled and not item.name.endswith("[bfloat16]"):
            item.add_marker(pytest.mark.long)
