"""The zoo's models that are Torch's own: what scripts, traces and graphs can say, each held against torch by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from neuropod_core import Problem, load_neuropod
from neuropod_torch.export_packagers import create_torch_aoti_neuropod, create_torch_export_neuropod
from neuropod_torch.packagers import create_torchscript_neuropod

RANDOM = np.random.default_rng(5)
TRIED_TWICE = 2
QUICK = {"aot_inductor.compile_wrapper_opt_level": "O0"}
WRITERS: dict[str, Callable[..., None]] = {
    "torchscript": create_torchscript_neuropod,
    "torch_export": create_torch_export_neuropod,
    "torch_aoti": partial(create_torch_aoti_neuropod, inductor_configs=QUICK),
}
NO_STRINGS = "exported programs have no strings"
ON_VALUES = "an exported graph cannot grow a tensor as long as values say"
NOT_WRITTEN = "code of AOTInductor 2.13 adds to this buffer and does not write it back"
NO_QUANTISED = "torch.export cannot trace layers that hold packed int8 weights"


class Moments(NamedTuple):
    mean: torch.Tensor
    spread: torch.Tensor


class Named(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Moments:
        return Moments(x.mean(dim=1), x.std(dim=1))


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        return {"low": x.amin(1)}, {"high": x.amax(1), "where": x.argmax(1)}


class Collatz(torch.nn.Module):
    """Grows its result for as long as the values say."""

    def forward(self, n: torch.Tensor) -> torch.Tensor:
        steps: list[torch.Tensor] = [n]
        while bool(n.max() > 1):
            n = torch.where(n > 1, torch.where(n % 2 == 0, n // 2, 3 * n + 1), n)
            steps.append(n)
        return torch.stack(steps)


class Tagger(torch.nn.Module):
    """Takes text and numbers; the lengths of TorchScript are bytes, so its words are plain letters here."""

    def forward(self, words: list[str], scores: torch.Tensor) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(word) for word in words])
        return {"lengths": lengths, "weighted": scores * lengths}


class Average(torch.nn.Module):
    """Keeps a running average and its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls.add_(1)
        self.seen.add_((x - self.seen) / self.calls)
        return {"average": self.seen, "calls": self.calls}


class Int8(torch.nn.Module):
    """Computes in int8: weights ahead, activations in each call."""

    def __init__(self) -> None:
        super().__init__()
        layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        self.layers = torch.ao.quantization.quantize_dynamic(layers, {torch.nn.Linear}, dtype=torch.qint8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Mixed(torch.nn.Module):
    """Computes in bfloat16 between float32 edges, as automatic mixed precision does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16).to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.inner(x.to(torch.bfloat16)))
        return {"y": hidden.to(torch.float32), "half": hidden.to(torch.float16), "brain": hidden}


class Spectrum(torch.nn.Module):
    """Complex numbers within, real ones at the edges."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x, dim=1).abs()


class Branch(torch.nn.Module):
    """Branches on a value, in the form that graphs can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))


def rows(*counts: int, width: int = 3) -> list[dict[str, Any]]:
    return [{"x": RANDOM.normal(size=(count, width)).astype(np.float32)} for count in counts]


def texts(*words: str) -> dict[str, Any]:
    return {"words": np.array(words, object), "scores": RANDOM.normal(size=len(words)).astype(np.float32)}


class Model(NamedTuple):
    shows: str
    module: Callable[[], torch.nn.Module]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    feeds: list[dict[str, Any]]
    cannot: Mapping[str, str]


MODELS = {
    "named_tuple": Model(
        "outputs as the fields of a NamedTuple",
        Named,
        {"x": "float32[N, 3]"},
        {"mean": "float32[N]", "spread": "float32[N]"},
        rows(3, 1, 7),
        {},
    ),
    "tuple_of_dicts": Model(
        "outputs spread over two dictionaries",
        Pair,
        {"x": "float32[N, 3]"},
        {"low": "float32[N]", "high": "float32[N]", "where": "int64[N]"},
        rows(3, 1, 7),
        {},
    ),
    "growing": Model(
        "a loop that grows its result as long as the values say",
        Collatz,
        {"n": "int64[N]"},
        {"y": "int64[?, N]"},
        [{"n": np.array(numbers)} for numbers in ([6, 7], [1], [27, 3, 9])],
        {"torch_export": ON_VALUES, "torch_aoti": ON_VALUES},
    ),
    "tagger": Model(
        "text and numbers in one call",
        Tagger,
        {"words": "string[N]", "scores": "float32[N]"},
        {"lengths": "int64[N]", "weighted": "float32[N]"},
        [texts("a", "bcd"), texts(""), texts("x", "yz", "x")],
        {"torch_export": NO_STRINGS, "torch_aoti": NO_STRINGS},
    ),
    "average": Model(
        "stateful: a running average in two buffers",
        Average,
        {"x": "float32[3]"},
        {"average": "float32[3]", "calls": "int64[]"},
        [{"x": RANDOM.normal(size=3).astype(np.float32)} for _ in range(4)],
        {"torch_aoti": NOT_WRITTEN},
    ),
    "dynamic_int8": Model(
        "two layers quantised as they are called",
        Int8,
        {"x": "float32[N, 16]"},
        {"y": "float32[N, 4]"},
        rows(3, 1, 7, width=16),
        {"torch_export": NO_QUANTISED, "torch_aoti": NO_QUANTISED},
    ),
    "mixed": Model(
        "bfloat16 within; float32, float16 and bfloat16 out",
        Mixed,
        {"x": "float32[N, 16]"},
        {"y": "float32[N, 16]", "half": "float16[N, 16]", "brain": "bfloat16[N, 16]"},
        rows(3, 1, 7, width=16),
        {},
    ),
    "spectrum": Model(
        "complex numbers within",
        Spectrum,
        {"x": "float32[N, 8]"},
        {"y": "float32[N, 5]"},
        rows(3, 1, 7, width=8),
        {},
    ),
    "branch": Model(
        "a branch on values in an exported graph",
        Branch,
        {"x": "float32[N, 3]"},
        {"y": "float32[N, 3]"},
        rows(3, 1, 7),
        {"torchscript": "TorchScript does not take torch.cond"},
    ),
}


def _is_long(model: Model, platform: str) -> bool:
    """Tell whether the compiler of C++ is called, which takes ten seconds."""
    return platform == "torch_aoti" and model.cannot.get(platform) in (None, NOT_WRITTEN)


CELLS = [
    pytest.param(name, platform, marks=[pytest.mark.long] if _is_long(model, platform) else [])
    for name, model in MODELS.items()
    for platform in WRITERS
]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Callable[[], torch.nn.Module]:
    """Give the function that makes the model of the test, with the same weights each time."""

    def made() -> torch.nn.Module:
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Quantisation announces its successor.
            return MODELS[request.node.callspec.params["name"]].module().eval()

    return made


def by_hand(module: torch.nn.Module, feed: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    given = {key: list(value) if value.dtype == object else torch.from_numpy(value) for key, value in feed.items()}
    with torch.inference_mode():
        result = module(**given)
    if isinstance(result, torch.Tensor):
        return {names[0]: result}
    if hasattr(result, "_asdict"):
        return dict(result._asdict())
    parts = [result] if isinstance(result, dict) else result
    return {name: value for part in parts for name, value in part.items()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "platform"), CELLS)
def test_model_agrees_with_torch_by_hand(
    name: str,
    platform: str,
    module: Callable[[], torch.nn.Module],
    tmp_path: Path,
    zoo_row: Callable[..., None],
) -> None:
    model, path = MODELS[name], tmp_path / "m.neuropod"
    cell = {"framework": "PyTorch", "model": name, "shows": model.shows, "platform": platform}
    problem = Problem.of(model.inputs, model.outputs, name=f"zoo_{name}")
    write = partial(WRITERS[platform], neuropod_path=path, model_name=name, problem=problem, module=module())
    if platform in model.cannot:
        with pytest.raises((ValueError, RuntimeError, AssertionError)):  # It is refused, or computes something else.
            _largest_difference(module(), model, _written(write, path))
        zoo_row(**cell, reason=model.cannot[platform])
        return
    zoo_row(**cell, difference=_largest_difference(module(), model, _written(write, path)))


def _written(write: Callable[[], None], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The compiler says what it will not make fast.
        write()
    return path


def _largest_difference(net: torch.nn.Module, model: Model, path: Path) -> float:
    largest = 0.0
    with load_neuropod(path, trust="code") as loaded:
        for feed in model.feeds * TRIED_TWICE:
            results = loaded.infer(feed)
            for name, wanted in by_hand(net, feed, list(model.outputs)).items():
                expected = wanted.double().numpy()
                np.testing.assert_allclose(results[name].astype(np.float64), expected, rtol=1e-5, atol=1e-6)
                largest = max(largest, float(np.abs(results[name].astype(np.float64) - expected).max(initial=0)))
    return largest
