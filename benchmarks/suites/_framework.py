"""What the suites of the frameworks share: one artefact, opened bare and through neuropod, called in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from feeds import rotation
from neuropod_core import Neuropod, Tensors, load_neuropod
from report import NEUROPOD, Figures, Row, added
from timing import Contender, Effort, interleaved
from workloads import Workload

__all__ = ["Package", "Ways", "compared", "measured", "way"]

MAY_ADD_US = 1.0
MAY_ADD_SHARE = 0.03

Package = Callable[[Path], None]
"""Writes the package, a folder, to a path."""

Ways = Mapping[str, Contender]
"""Ways of running the same artefact without neuropod."""


def measured(
    workload: Workload, package: Package, ways: Callable[[Path], Ways], effort: Effort, **load_arguments: Any
) -> Figures:
    """Write a package, open its ``0/data`` in all `ways` and the whole through neuropod, and measure."""
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        path = Path(folder) / "model.neuropod"
        package(path)
        with load_neuropod(path, cache_dir=Path(folder) / "cache", **load_arguments) as model:
            others = ways(path / "0" / "data")
            _check_agreement(model, others)
            return interleaved({**others, NEUROPOD: way(workload, model.infer)}, effort)


def way(workload: Workload, call: Callable[[Tensors], object], **around: Any) -> Contender:
    """Give one way of running a workload."""
    return Contender(call, rotation(workload.problem.inputs, workload.batch), **around)


def compared(suite: str, title: str, figures: Figures) -> Row:
    """Hold neuropod against the cheapest of the other ways."""
    return added(suite, title, figures, fixed=MAY_ADD_US, share=MAY_ADD_SHARE)


def _check_agreement(model: Neuropod, ways: Ways) -> None:
    """Refuse to time things that compute something else."""
    for name, contender in ways.items():
        with contender.around():
            np.testing.assert_allclose(
                np.asarray(contender.call(contender.inputs[0])),
                model.infer(contender.inputs[0])["y"],
                rtol=1e-5,
                atol=1e-6,
                err_msg=name,
            )
