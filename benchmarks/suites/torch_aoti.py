"""Packages of AOTInductor by hand against the same file through neuropod."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from neuropod_core import Array, Tensors
from neuropod_core.packagers import create_torch_aoti_neuropod
from report import Row
from suites._framework import Ways, compared, measured, way
from suites.torchscript import MODULES
from timing import Effort
from workloads import WORKLOADS, Workload

__all__ = ["measure"]


def measure(effort: Effort) -> list[Row]:
    """Compare on every workload; each is compiled first."""
    return [
        compared(
            "torch_aoti",
            work.title,
            measured(work, partial(_package, work), partial(_ways, work), effort, trust="code"),
        )
        for work in WORKLOADS
    ]


def _package(work: Workload, path: Path) -> None:
    create_torch_aoti_neuropod(
        neuropod_path=path,
        model_name=work.kind,
        module=MODULES[work.kind](),
        problem=work.problem,
        package_as_zip=False,
    )


def _ways(work: Workload, folder: Path) -> Ways:
    package = torch._inductor.aoti_load_package(str(folder / "model.pt2"))  # noqa: SLF001 - its documented home
    run = package.loader.run
    names = [spec.name for spec in work.problem.inputs]

    def through_package(inputs: Tensors) -> Array:
        result: Array = package(**{name: torch.from_numpy(inputs[name]) for name in names}).numpy()
        return result

    def through_loader(inputs: Tensors) -> Array:
        (result,) = run([torch.from_numpy(inputs[name]) for name in names])
        array: Array = result.numpy()
        return array

    return {
        "package()": way(work, through_package),
        "its loader": way(work, through_loader),
    }
