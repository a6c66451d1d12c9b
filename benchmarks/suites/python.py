"""Plain Python functions against the same functions in a package."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neuropod_core import Array, Tensors
from neuropod_core.packagers import create_python_neuropod
from report import Row
from suites._framework import Ways, compared, measured, way
from timing import Effort
from workloads import ADD, MLP, MLP_BATCH, SCALE, Workload, weights

__all__ = ["measure"]

CODE = Path(__file__).parent.parent / "python_models"


def measure(effort: Effort) -> list[Row]:
    """Compare with packages that promise to leave their inputs alone, and with one that promises nothing."""
    promising = {"writes_inputs": False, "thread_safe": True}
    rows = [_compared(work, work.title, effort, promising) for work in (MLP, MLP_BATCH, ADD, SCALE)]
    return [*rows, _compared(MLP, f"{MLP.title}, nothing promised", effort, {})]


def _compared(work: Workload, title: str, effort: Effort, promises: dict[str, Any]) -> Row:
    figures = measured(work, partial(_package, work, promises), partial(_ways, work), effort, trust="code")
    return compared("python", title, figures)


def _package(work: Workload, promises: dict[str, Any], path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        held = Path(folder) / "weights.npz"
        np.savez(held, **weights(work.kind))
        create_python_neuropod(
            neuropod_path=path,
            model_name=work.kind,
            entrypoint_package="models.numpy_models",
            entrypoint=work.kind,
            code_path_spec=[{"python_root": CODE, "dirs_to_package": ["models"]}],
            data_paths=[{"path": held, "packaged_name": held.name}],
            problem=work.problem,
            package_as_zip=False,
            **promises,
        )


def _ways(work: Workload, folder: Path) -> Ways:
    import sys

    sys.path.insert(0, str(CODE))
    from models import numpy_models

    model = getattr(numpy_models, work.kind)(str(folder))

    def run(inputs: Tensors) -> Array:
        result: Array = model(**inputs)["y"]
        return result

    return {"the function": way(work, run)}
