"""The conformance suite over AOTInductor (extra ``[testing]``): ``neuropod plugins check torch_aoti`` runs it.

It needs a C++ compiler, and a few seconds for each model that is compiled; no model is compiled twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from neuropod_core import Array, Problem
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_torch.conformance_export import native_array, standard_module
from neuropod_torch.export_packagers import create_torch_aoti_neuropod

__all__ = ["TestTorchAoti"]

_QUICK = {"aot_inductor.compile_wrapper_opt_level": "O0"}


class TestTorchAoti(BackendTests):
    """AOTInductor, by the release of Torch that is installed."""

    platform = "torch_aoti"
    distribution = "neuropod-torch"
    known_gaps: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def compiled(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Give the folder of what was compiled so far."""
        folder = tmp_path_factory.getbasetemp() / "compiled"
        folder.mkdir(exist_ok=True)
        return folder

    @pytest.fixture
    def write_model(self, compiled: Path) -> WriteModel:
        """Give the function that compiles a standard model."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            signature = "-".join(f"{spec.name}.{spec.dtype}.{len(spec.shape)}" for spec in problem.inputs)
            made = compiled / f"{model.value}-{signature}.neuropod"
            if not made.exists():
                create_torch_aoti_neuropod(
                    neuropod_path=made,
                    model_name=model.value,
                    module=standard_module(model),
                    problem=problem,
                    inductor_configs=_QUICK,
                    zip_compression="stored",
                )
            shutil.copyfile(made, path)

        return write

    def to_numpy(self, tensor: Any) -> Array:
        """Give a tensor of torch as an array."""
        return native_array(tensor)
