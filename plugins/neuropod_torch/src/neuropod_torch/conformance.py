"""The conformance suite over TorchScript (extra ``[testing]``): ``neuropod plugins check torchscript`` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from neuropod_core import Array, DType, Problem
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_torch._quiet import quiet_jit
from neuropod_torch.conformance_export import native_array
from neuropod_torch.packagers import create_torchscript_neuropod

__all__ = ["TestTorchScript"]

_FORWARD = {
    StandardModel.ADD: "def forward(self, x: Tensor, y: Tensor):\n    return {'sum': x + y, 'difference': x - y}\n",
    StandardModel.IN_PLACE: "def forward(self, x: Tensor):\n    return x.add_(1)\n",
    StandardModel.BUFFER: "def forward(self, x: Tensor):\n    return self.buffer.copy_(x)\n",
    StandardModel.CONSTANT: "def forward(self, x: Tensor):\n    return self.constant\n",
    StandardModel.FAILING: "def forward(self, x: Tensor):\n    assert x.size(0) == 3, 'not 3'\n    return x * 2\n",
}


class TestTorchScript(BackendTests):
    """TorchScript, by the release of Torch that is installed."""

    platform = "torchscript"
    distribution = "neuropod-torch"
    known_gaps: ClassVar[dict[str, str]] = {
        "test_strings_of_any_rank_come_back": "TorchScript has strings as List[str], of one dimension"
    }

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model as the text of its ``forward``."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            source = _FORWARD.get(model) or _identity(problem)
            with quiet_jit():
                script = _module(source)
            create_torchscript_neuropod(neuropod_path=path, model_name=model.value, module=script, problem=problem)

        return write

    def to_numpy(self, tensor: Any) -> Array:
        """Give a tensor of torch as an array; texts are one."""
        return native_array(tensor)


def _identity(problem: Problem) -> str:
    kind = "List[str]" if problem.inputs[0].dtype is DType.STRING else "Tensor"
    arguments = ", ".join(f"{spec.name}: {kind}" for spec in problem.inputs)
    items = ", ".join(f"'y{spec.name[1:]}': {spec.name}" for spec in problem.inputs)
    return f"def forward(self, {arguments}):\n    return {{{items}}}\n"


def _module(source: str) -> Any:
    class Standard(torch.nn.Module):  # type: ignore[misc]  # Torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("buffer", torch.zeros(3))
            self.register_buffer("constant", torch.tensor([1.0, 2.0, 3.0]))

    script = torch.jit.script(Standard())
    script.define(source)
    return script
