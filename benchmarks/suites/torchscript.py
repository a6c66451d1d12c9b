"""TorchScript by hand against the same file through neuropod."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from neuropod_core import Array, Tensors
from neuropod_core.packagers import create_torchscript_neuropod
from report import Row
from suites._framework import Ways, compared, measured, way
from timing import Effort
from workloads import WORKLOADS, Workload, weights

__all__ = ["MODULES", "measure"]


class Mlp(nn.Module):
    """Two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in weights("mlp").items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(value), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Give ten scores for each row."""
        return torch.relu(x @ self.w1 + self.b1) @ self.w2 + self.b2


class Add(nn.Module):
    """A sum of two inputs."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Add them."""
        return a + b


class Conv(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in weights("conv").items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(value), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Give sixteen feature maps."""
        first = torch.relu(nn.functional.conv2d(x, self.k1, padding=1))
        return torch.relu(nn.functional.conv2d(first, self.k2, padding=1))


class Scale(nn.Module):
    """A product with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.from_numpy(weights("scale")["factor"]))

    def forward(self, x: Tensor) -> Tensor:
        """Scale every element."""
        return x * self.factor


MODULES: dict[str, type[Any]] = {"mlp": Mlp, "add": Add, "conv": Conv, "scale": Scale}


def measure(effort: Effort) -> list[Row]:
    """Compare on every workload."""
    return [
        compared("torchscript", work.title, measured(work, partial(_package, work), partial(_ways, work), effort))
        for work in WORKLOADS
    ]


def _package(work: Workload, path: Path) -> None:
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # TorchScript is what is measured here.
        scripted = torch.jit.script(MODULES[work.kind]().eval())
    create_torchscript_neuropod(
        neuropod_path=path, model_name=work.kind, module=scripted, problem=work.problem, package_as_zip=False
    )


def _ways(work: Workload, folder: Path) -> Ways:
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)
        loaded = torch.jit.load(str(folder / "model.pt")).eval()
        frozen = torch.jit.freeze(loaded)
    names = [spec.name for spec in work.problem.inputs]

    def run(module: torch.jit.ScriptModule, inputs: Tensors) -> Array:
        if len(names) == 1:
            result: Array = module(torch.from_numpy(inputs["x"])).numpy()
        else:
            result = module(torch.from_numpy(inputs["a"]), torch.from_numpy(inputs["b"])).numpy()
        return result

    return {
        "torch.jit.load": way(work, partial(run, loaded), around=torch.inference_mode),
        "frozen": way(work, partial(run, frozen), around=torch.inference_mode),
    }
