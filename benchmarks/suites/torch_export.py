"""Exported programs by hand against the same file through neuropod."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from neuropod_core import Array, Tensors
from neuropod_core.packagers import create_torch_export_neuropod
from report import Row
from suites._framework import Ways, compared, measured, way
from suites.torchscript import MODULES
from timing import Effort
from workloads import WORKLOADS, Workload

__all__ = ["measure"]


def measure(effort: Effort) -> list[Row]:
    """Compare on every workload."""
    return [
        compared(
            "torch_export",
            work.title,
            measured(work, partial(_package, work), partial(_ways, work), effort, trust="code"),
        )
        for work in WORKLOADS
    ]


def _package(work: Workload, path: Path) -> None:
    create_torch_export_neuropod(
        neuropod_path=path,
        model_name=work.kind,
        module=MODULES[work.kind](),
        problem=work.problem,
        package_as_zip=False,
    )


def _ways(work: Workload, folder: Path) -> Ways:
    program = torch.export.load(str(folder / "model.pt2"))
    module = program.module(check_guards=False)
    state = {**program.state_dict, **program.constants}
    weights = [state[spec.target] for spec in program.graph_signature.input_specs if spec.target]
    names = [spec.name for spec in work.problem.inputs]

    def through_module(inputs: Tensors) -> Array:
        result: Array = module(**{name: torch.from_numpy(inputs[name]) for name in names}).numpy()
        return result

    def through_graph(inputs: Tensors) -> Array:
        (result,) = program.graph_module.forward(*weights, *(torch.from_numpy(inputs[name]) for name in names))
        array: Array = result.numpy()
        return array

    return {
        "module(), no guards": way(work, through_module, around=torch.inference_mode),
        "its graph": way(work, through_graph, around=torch.inference_mode),
    }
