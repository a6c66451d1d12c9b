"""PyTorch modules of the zoo, and the entry point that runs any of them in a Python package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.scores = nn.Linear(8 * 8 * 8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(torch.flatten(self.features(image), 1))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 16, batch_first=True)
        self.scores = nn.Linear(16, 3)

    def forward(self, steps: Tensor) -> Tensor:
        _, (last, _) = self.cells(steps)
        return self.scores(last[-1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


class Pair(nn.Module):
    """Two inputs of two types, two outputs of two types."""

    def forward(self, x: Tensor, place: Tensor) -> dict[str, Tensor]:
        picked = torch.gather(x, 1, place.unsqueeze(1)).squeeze(1)
        return {"picked": picked, "is_positive": picked > 0}


class DynamicLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(4, 8, 3, padding=1)

    def forward(self, series: Tensor) -> Tensor:
        return torch.relu(self.convolution(series)).mean(2)


class Counter(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.scores = nn.Linear(8, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.scores(self.table(words).mean(1))


class WeightsOfEightBits(nn.Module):
    """A linear layer that keeps its weights as int8 with a scale for each row."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(4, 16)
        scales = weights.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weights", torch.round(weights / scales).to(torch.int8))
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weights.to(x.dtype) * self.scales).t()


class Branching(nn.Module):
    """Halves its input until it is small: how often, only the values say."""

    def forward(self, x: Tensor) -> Tensor:
        while float(x.abs().max()) > 1.0:
            x = x / 2
        return x


class Words(nn.Module):
    """Greets by name; letters by number would be bytes in TorchScript."""

    def forward(self, words: list[str]) -> dict[str, list[str]]:
        return {"greeting": ["hello " + word for word in words], "parting": [word + ", bye" for word in words]}


def quantised() -> nn.Module:
    """Give the MLP with linear layers that compute in int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That this will move to another library.
        module: nn.Module = torch.ao.quantization.quantize_dynamic(Mlp().eval(), {nn.Linear}, dtype=torch.qint8)
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "lstm": Lstm,
    "transformer": Transformer,
    "pair": Pair,
    "dynamic_length": DynamicLength,
    "counter": Counter,
    "embedding": Embedding,
    "half": lambda: Mlp().half(),
    "bfloat16": lambda: Mlp().bfloat16(),
    "int8_weights": WeightsOfEightBits,
    "quantised": quantised,
    "branching": Branching,
    "words": Words,
}


def made(name: str) -> nn.Module:
    """Make a module with the weights that it has everywhere."""
    torch.manual_seed(7)
    return MODULES[name]().eval()


def load(data_path: str) -> Callable[..., dict[str, Any]]:
    """Open a package: ``name`` says which module, ``weights.safetensors`` holds its weights and buffers."""
    folder = Path(data_path)
    module = made((folder / "name").read_text())
    if (folder / "weights.safetensors").exists():
        module.load_state_dict(load_file(folder / "weights.safetensors"))

    def call(**inputs: Any) -> dict[str, Any]:
        with torch.inference_mode():
            results = module(**{name: tensor_of(array) for name, array in inputs.items()})
        named = results if isinstance(results, dict) else {"y": results}
        return {name: array_of(value) for name, value in named.items()}

    return call


def tensor_of(array: Any) -> Any:
    """Give an input as PyTorch takes it: a tensor, or a list of words."""
    if array.dtype == object:
        return list(array)
    if array.dtype.name == "bfloat16":  # NumPy has it from ml_dtypes, which PyTorch does not know.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array_of(result: Any) -> Any:
    """Give a result as NumPy has it."""
    if isinstance(result, list):
        return np.array(result, object)
    if result.dtype == torch.bfloat16:
        import ml_dtypes

        return result.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return result.numpy()
