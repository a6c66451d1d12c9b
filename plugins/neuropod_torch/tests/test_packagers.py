"""Packages of TorchScript modules."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuropod_core import Problem, load_neuropod
from neuropod_core.errors import PackagingError
from neuropod_torch.packagers import create_torchscript_neuropod

PROBLEM = Problem.of(["x: float32[N, 4]"], ["y: float32[N, 2]"])
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


def test_module_of_any_kind_is_packaged(tmp_path: Path, announced: Any) -> None:
    net = Net().eval()
    with announced():
        modules = {"plain": net, "scripted": torch.jit.script(net), "traced": torch.jit.trace(net, torch.ones(1, 4))}
    for name, module in modules.items():
        path = tmp_path / f"{name}.neuropod"
        create_torchscript_neuropod(neuropod_path=path, model_name=name, module=module, problem=PROBLEM)

        with load_neuropod(path) as model, torch.no_grad():
            np.testing.assert_allclose(model.infer({"x": X})["y"], net(torch.from_numpy(X)).numpy(), rtol=1e-6)


def test_file_is_packaged_as_it_is(tmp_path: Path, saved: Any) -> None:
    source = saved("def forward(self, x: Tensor):\n    return x[:, :2]\n") / "data" / "model.pt"
    path = tmp_path / "file.neuropod"

    create_torchscript_neuropod(
        neuropod_path=path, model_name="file", module_path=source, problem=PROBLEM, test_input_data={"x": X}
    )

    with zipfile.ZipFile(path) as archive:
        assert archive.read("0/data/model.pt") == source.read_bytes()
        assert "0/config.json" not in archive.namelist()
        assert json.loads(archive.read("config.json"))["platform"] == "torchscript"
    with load_neuropod(path) as model:
        model.test()


def test_exactly_one_source_is_asked_for(tmp_path: Path) -> None:
    for sources, given in (({}, "neither"), ({"module": Net(), "module_path": "model.pt"}, "both")):
        with pytest.raises(PackagingError, match=f"exactly one of module and module_path is packaged, got {given}"):
            create_torchscript_neuropod(
                neuropod_path=tmp_path / "a",
                model_name="a",
                problem=PROBLEM,
                **sources,  # type: ignore[arg-type]  # wrong on purpose
            )
    assert list(tmp_path.glob("a*")) == []


def test_module_that_cannot_be_scripted_is_refused(tmp_path: Path) -> None:
    class Dynamic(torch.nn.Module):
        def forward(self, x: torch.Tensor, *more: Any) -> Any:
            return sorted(more, key=lambda one: one.name)

    with pytest.raises(PackagingError, match=r"torch cannot script Dynamic: .*; pass torch\.jit\.trace"):
        create_torchscript_neuropod(neuropod_path=tmp_path / "a", model_name="a", module=Dynamic(), problem=PROBLEM)
    assert list(tmp_path.glob("a*")) == []


@pytest.mark.parametrize("module", ["model.pt", Net.forward, Net], ids=["text", "function", "class"])
def test_what_is_no_module_is_refused(module: Any, tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match=r"module is a torch\.jit\.ScriptModule, not"):
        create_torchscript_neuropod(neuropod_path=tmp_path / "a", model_name="a", module=module, problem=PROBLEM)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match=r"cannot be read: No such file or directory - at .*absent\.pt"):
        create_torchscript_neuropod(
            neuropod_path=tmp_path / "a", model_name="a", module_path=tmp_path / "absent.pt", problem=PROBLEM
        )


def test_module_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    problem = Problem.of(["image: float32[N, 4]"], ["y: float32[N, 2]"])

    with pytest.raises(PackagingError, match=r"forward takes x.*inputs\.image"):
        create_torchscript_neuropod(neuropod_path=tmp_path / "a", model_name="a", module=Net(), problem=problem)
    assert list(tmp_path.glob("a*")) == []
