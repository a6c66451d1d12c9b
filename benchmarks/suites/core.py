"""What the core adds to an executor that does nothing but return results that were made before."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from feeds import arrays, rotation
from neuropod_core import (
    Backend,
    Descriptor,
    Executor,
    LoadOptions,
    Names,
    Neuropod,
    Problem,
    Tensors,
    Trust,
    Variant,
    hookimpl,
    load_neuropod,
    plugins,
)
from neuropod_core.packaging import new_package
from report import NEUROPOD, Row, added
from timing import Contender, Effort, interleaved

__all__ = ["measure"]

PLATFORM = "prebuilt"
BATCH = 4

_TWO_AND_ONE = Problem.of({"x": "float32[N, 8]", "y": "float32[N, 8]"}, {"sum": "float32[N, 8]"})
_TEN_AND_TEN = Problem.of(
    {f"x{place}": "float32[N, 8]" for place in range(10)}, {f"y{place}": "float32[N, 8]" for place in range(10)}
)
_OPTIONAL = Problem.of(
    {"x": "float32[N, 8]", "y": {"dtype": "float32", "shape": ["N", 8], "optional": True}}, {"sum": "float32[N, 8]"}
)
_WORDS = Problem.of({"words": "string[N]"}, {"scores": "float32[N]"})
_MANY_WORDS = Problem.of({"words": "string[1000]"}, {"scores": "float32[1000]"})


@dataclass(frozen=True)
class _Case:
    title: str
    problem: Problem
    may_add_us: float | None = None
    outputs: Names = None
    left_out: str = ""
    checks: bool = True


_CASES = (
    _Case("two in, one out", _TWO_AND_ONE, may_add_us=1.0),
    _Case("ten in, ten out", _TEN_AND_TEN, may_add_us=3.0),
    _Case("ten in, one out asked for", _TEN_AND_TEN, outputs=["y3"]),
    _Case("an optional input left out", _OPTIONAL, left_out="y"),
    _Case(f"{BATCH} strings in", _WORDS),
    _Case("1000 strings in", _MANY_WORDS),
    _Case("two in, one out, checks off", _TWO_AND_ONE, checks=False),
    _Case("ten in, ten out, checks off", _TEN_AND_TEN, checks=False),
)


class Prebuilt(Executor):
    """Returns the same results whatever goes in; neither computes nor copies."""

    def __init__(self, problem: Problem) -> None:
        self._results = arrays(problem.outputs, BATCH)

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Return them."""
        del inputs, outputs
        return self._results

    def close(self) -> None:
        """Hold nothing."""


class PrebuiltBackend(Backend):
    """Opens packages in which nothing is."""

    descriptor = Descriptor(platform=PLATFORM, trust=Trust.DATA)

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Make the results."""
        del options
        return Prebuilt(variant.problem)


class Plugin:
    """What an entry point would name."""

    neuropod_contract = (1, 0)

    @hookimpl
    def neuropod_backend(self, platform: str) -> Backend:
        """Give the backend."""
        del platform
        return PrebuiltBackend()


def measure(effort: Effort) -> list[Row]:
    """Compare `Neuropod.infer` with the executor below it."""
    plugins.register(Plugin(), PLATFORM)
    return [_compared(case, effort) for case in _CASES]


def _compared(case: _Case, effort: Effort) -> Row:
    inputs = [
        {name: array for name, array in given.items() if name != case.left_out}
        for given in rotation(case.problem.inputs, BATCH)
    ]
    with _loaded(case) as model:
        calls = {"the executor": Prebuilt(case.problem).infer, NEUROPOD: model.infer}
        contenders = {name: _contender(call, case.outputs, inputs) for name, call in calls.items()}
        return added("core", case.title, interleaved(contenders, effort), fixed=case.may_add_us)


def _contender(call: Callable[..., Tensors], outputs: Names, inputs: Sequence[Tensors]) -> Contender:
    return Contender(call if outputs is None else lambda given: call(given, outputs), inputs)


@contextmanager
def _loaded(case: _Case) -> Iterator[Neuropod]:
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        path = Path(folder) / "model.neuropod"
        with new_package(PLATFORM, neuropod_path=path, model_name="prebuilt", problem=case.problem):
            pass
        with load_neuropod(path, checks=case.checks, cache_dir=Path(folder) / "cache") as model:
            yield model
