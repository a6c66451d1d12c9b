"""What a model of the zoo is: one problem, the framework run by hand, and a writer for each platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import Array, Problem, packagers

__all__ = ["MODELS", "PLATFORMS", "Feed", "Run", "Specimen", "Write", "renamed"]

MODELS = Path(__file__).parent
PLATFORMS = ("torchscript", "torch_export", "torch_aoti", "onnx", "tensorflow", "python")
OFFERED = packagers.available()

Feed = Mapping[str, Array]
"""Inputs of one call."""

Run = Callable[[Feed], Mapping[str, Any]]
"""Runs a model once, by hand."""

Write = Callable[[Path], None]
"""Writes a package."""


@dataclass(frozen=True)
class Specimen:
    """One model of one framework.

    Attributes
    ----------
    framework, model, shows
        As the rows of the table say.
    problem
        What every package of it declares.
    feeds
        Inputs of some calls, in order, of several sizes.
    by_hand
        Gives the framework's own way of calling a fresh model: inputs by name -> results by name.
    writers
        Platform -> what writes a package for it.
    cannot
        Platform -> why it cannot be expressed there. Where there is a writer all the same, it must fail.
    long
        Platforms that are tried only when asked for, since compiling takes long.
    tolerance
        Largest difference, relative and absolute, that two ways of computing the same may have.
    """

    framework: str
    model: str
    shows: str
    problem: Problem
    feeds: tuple[Feed, ...]
    by_hand: Callable[[], Run]
    writers: Mapping[str, Write]
    cannot: Mapping[str, str] = field(default_factory=dict)
    long: frozenset[str] = frozenset()
    tolerance: float = 1e-5

    def cases(self) -> list[Any]:
        """Give a case for each platform that is here."""
        return [
            pytest.param(
                self,
                platform,
                id=f"{self.model}-{platform}",
                marks=[pytest.mark.long] if platform in self.long else [],
            )
            for platform in PLATFORMS
            if platform in self.cannot or (platform in self.writers and f"create_{platform}_neuropod" in OFFERED)
        ]

    def names(self, platform: str) -> dict[str, str]:
        """Give the facts that name its cell."""
        return {"framework": self.framework, "model": self.model, "shows": self.shows, "platform": platform}


def renamed(model: Any, problem: Problem) -> Any:
    """Call the inputs and outputs of an ONNX model as the problem does, in their order."""
    graph = model.graph
    sides = ((graph.input, problem.inputs), (graph.output, problem.outputs))
    names = {tensor.name: spec.name for side, specs in sides for tensor, spec in zip(side, specs, strict=True)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for side, _ in sides:
        for tensor in side:
            tensor.name = names[tensor.name]
    return model
