"""The conformance suite over exported programs (extra ``[testing]``): ``neuropod plugins check torch_export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from neuropod_core import Array, Problem
from neuropod_core.testing import BackendTests, StandardModel, WriteModel
from neuropod_torch.export_packagers import create_torch_export_neuropod

__all__ = ["TestTorchExport", "native_array", "standard_module"]


class TestTorchExport(BackendTests):
    """Exported programs, by the release of Torch that is installed."""

    platform = "torch_export"
    distribution = "neuropod-torch"
    known_gaps: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that exports a standard model."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            create_torch_export_neuropod(
                neuropod_path=path, model_name=model.value, module=standard_module(model), problem=problem
            )

        return write

    def to_numpy(self, tensor: Any) -> Array:
        """Give a tensor of torch as an array."""
        return native_array(tensor)


def native_array(tensor: Any) -> Array:
    """Give a tensor of torch as an array over its memory."""
    if not isinstance(tensor, torch.Tensor):
        text: Array = tensor
        return text
    if tensor.dtype != torch.bfloat16:
        array: Array = tensor.cpu().numpy()
        return array
    import ml_dtypes

    brain: Array = tensor.cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return brain


def standard_module(model: StandardModel) -> Any:
    """Give a standard model as a module."""
    return _MODULES[model]().eval()


class _Identity(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {f"y{name[1:]}": value for name, value in inputs.items()}


class _Add(torch.nn.Module):  # type: ignore[misc]  # as above
    def forward(self, x: Any, y: Any) -> dict[str, Any]:
        return {"sum": x + y, "difference": x - y}


class _InPlace(torch.nn.Module):  # type: ignore[misc]  # as above
    def forward(self, x: Any) -> Any:
        return x.add_(1)


class _Buffer(torch.nn.Module):  # type: ignore[misc]  # as above
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("buffer", torch.zeros(3))

    def forward(self, x: Any) -> Any:
        return self.buffer.copy_(x)


class _Constant(torch.nn.Module):  # type: ignore[misc]  # as above
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Any) -> Any:
        del x
        return self.constant


class _Failing(torch.nn.Module):  # type: ignore[misc]  # as above
    def forward(self, x: Any) -> Any:
        torch.ops.aten._assert_async.msg(torch.tensor(x.shape[0]) == 3, "not 3")  # noqa: PLR2004, SLF001 - an operator
        return x * 2


_MODULES: dict[StandardModel, Any] = {
    StandardModel.IDENTITY: _Identity,
    StandardModel.ADD: _Add,
    StandardModel.IN_PLACE: _InPlace,
    StandardModel.BUFFER: _Buffer,
    StandardModel.CONSTANT: _Constant,
    StandardModel.FAILING: _Failing,
}
