"""Packages whose code uses PyTorch; collected where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neuropod_core import DeviceError, Executor

Load = Callable[..., Executor]

_HEAD = "import numpy as np\nimport torch\n"
_X = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    "result",
    ["held", "held.numpy()", "held[:].numpy()", "held.detach()", "held.numpy().reshape(2, 2).reshape(4)", "held + 0"],
)
def test_tensors_that_the_model_holds_stay_its_own(load: Load, result: str) -> None:
    entry = f"""{_HEAD}
def main(path):
    held = torch.zeros(4)
    def model(x):
        held.copy_(torch.from_numpy(x))
        return {{"y": {result}}}
    return model
"""
    executor = load({"entry.py": entry})
    first = executor.infer({"x": _X})["y"]
    executor.infer({"x": _X + 1})

    assert type(first) is np.ndarray
    assert first.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "x", [_X, _X[::-1], np.broadcast_to(np.float32(0), (4,))], ids=["plain", "reversed", "broadcast"]
)
def test_inputs_that_a_tensor_aliases_are_never_written(load: Load, x: np.ndarray) -> None:
    entry = f"{_HEAD}def main(path):\n    return lambda x: {{'y': torch.from_numpy(x).add_(1).numpy()}}\n"

    y = load({"entry.py": entry}).infer({"x": x})["y"]

    assert y.tolist() == [1, 1, 1, 1]
    assert not x.any()


def test_a_module_is_a_callable(load: Load) -> None:
    entry = f"""{_HEAD}
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))
    def forward(self, x):
        return {{"y": torch.from_numpy(x) * self.scale}}
def main(path):
    return Net()
"""
    assert load({"entry.py": entry}).infer({"x": _X + 1})["y"].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("arguments", ["", ", pickle_module=pickle"], ids=["torch.load", "with its pickle"])
def test_pickled_modules_find_their_class(load: Load, tmp_path: Path, arguments: str) -> None:
    layers = """
import torch
class Net(torch.nn.Module):
    by = {by}
    def forward(self, x):
        return {{"y": torch.from_numpy(x) + self.by}}
"""
    entry = f"""
import pickle
import torch
def main(path):
    return torch.load(path + "/net.pt", weights_only=False{arguments})
"""
    namespace: dict[str, object] = {"__name__": "mymodel.layers"}
    exec(layers.format(by=0), namespace)  # noqa: S102 - the module as it was when the weights were written
    module = type(torch)("mymodel.layers")
    module.__dict__.update(namespace)
    file = tmp_path / "net.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mymodel", type(torch)("mymodel"))
        patch.setitem(sys.modules, "mymodel.layers", module)
        torch.save(module.Net(), file)
    models = [
        load(
            {"mymodel/entry.py": entry, "mymodel/layers.py": layers.format(by=by)},
            package="mymodel.entry",
            data={"net.pt": file.read_bytes()},
        )
        for by in (1, 2)
    ]

    assert [model.infer({"x": _X})["y"][0] for model in models] == [1, 2]


def test_an_absent_accelerator_is_refused(load: Load) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DeviceError, match="torch sees no device 'cuda:0'"):
        load({"entry.py": f"{_HEAD}def main(path, device):\n    return print\n"}, device="cuda:0")
