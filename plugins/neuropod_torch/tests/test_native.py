"""Native tensors with TorchScript: taken as they are, given as they are, and the caller's own."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

SQUARE = "def forward(self, x: Tensor):\n    return {'y': x * x, 'same': x}\n"


class Foreign:
    """A tensor of neither NumPy nor torch: it lends its memory by DLPack, as any framework's does."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __dlpack__(self, **arguments: Any) -> Any:
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


@pytest.fixture(params=[True, False], ids=["frozen", "as saved"])
def executor(request: pytest.FixtureRequest, opened: Any) -> Any:
    return opened(SQUARE, {"x": "float32[N]"}, {"y": "float32[N]", "same": "float32[N]"}, freeze=request.param)


@pytest.mark.parametrize("kind", ["numpy", "torch", "foreign", "with gradient"])
def test_tensors_of_any_kind_go_in_and_come_out(kind: str, executor: Any) -> None:
    array = np.arange(4, dtype=np.float32)
    x = {
        "numpy": array,
        "torch": torch.from_numpy(array),
        "foreign": Foreign(array),
        "with gradient": torch.from_numpy(array).clone().requires_grad_(),
    }[kind]

    results = executor.infer_native({"x": x})

    assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in results.values())
    assert results["y"].tolist() == [0, 1, 4, 9]
    assert results["same"].data_ptr() not in (array.ctypes.data, getattr(x, "data_ptr", int)())
    results["y"].add_(1)  # Neither made in inference mode nor kept by the model.
    assert executor.infer_native({"x": x})["y"].tolist() == [0, 1, 4, 9]


def test_foreign_tensor_becomes_arrays_too(executor: Any) -> None:
    results = executor.infer({"x": Foreign(np.arange(3, dtype=np.float32))})

    assert results["y"].tolist() == [0, 1, 4]


def test_half_precision_goes_through_without_numpy(opened: Any) -> None:
    executor = opened("def forward(self, x: Tensor):\n    return x + 1\n", {"x": "bfloat16[N]"}, {"y": "bfloat16[N]"})
    x = torch.linspace(0, 8, 100).bfloat16()

    assert torch.equal(executor.infer_native({"x": x})["y"], x + 1)


def test_half_precision_is_not_copied_on_its_way_out(opened: Any) -> None:
    source = "def forward(self, x: Tensor):\n    return {'y': x * 2, 'same': x}\n"
    executor = opened(source, {"x": "bfloat16[N, M]"}, {"y": "bfloat16[N, M]", "same": "bfloat16[N, M]"})
    x = np.arange(12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16).T

    results = executor.infer({"x": x})

    assert results["y"].base is not None  # A view of the tensor's own memory.
    assert not np.shares_memory(results["same"], x)
    for name, factor in (("y", 2), ("same", 1)):
        assert results[name].dtype.name == "bfloat16"
        np.testing.assert_array_equal(results[name].astype(np.float32), x.astype(np.float32) * factor)


def test_half_precision_that_is_none_stays_what_it_is(opened: Any) -> None:
    executor = opened("def forward(self, x: Tensor):\n    return x + 1\n", {"x": "float32[N]"}, {"y": "bfloat16[N]"})

    assert executor.infer({"x": np.ones(2, np.float32)})["y"].dtype == np.float32  # The core refuses it.


def test_text_stays_an_array(opened: Any) -> None:
    source = "def forward(self, x: List[str]):\n    return {'y': x}\n"
    executor = opened(source, {"x": "string[N]"}, {"y": "string[N]"})

    assert executor.infer_native({"x": np.array(["a", "b"], object)})["y"].tolist() == ["a", "b"]


def test_input_that_is_written_stays_the_callers(opened: Any) -> None:
    executor = opened("def forward(self, x: Tensor):\n    return x.add_(1)\n", {"x": "float32[N]"}, {"y": "float32[N]"})
    x = torch.zeros(5)

    assert executor.infer_native({"x": x})["y"].tolist() == [1] * 5
    assert x.tolist() == [0] * 5
