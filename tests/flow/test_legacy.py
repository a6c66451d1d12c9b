"""Packages as the original tool wrote them: no `problem` key, often no manifest, everything optional."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

from neuropod_core import Neuropod, TensorMismatchError, TrustError, load_neuropod

SPECS = {
    "input_spec": [
        {"name": "x", "dtype": "float32", "shape": [2, "cols"]},
        {"name": "y", "dtype": "float32", "shape": [2, "cols"]},
    ],
    "output_spec": [{"name": "out", "dtype": "float32", "shape": [2, None]}],
}
X = np.array([[1, 2], [3, 4]], np.float32)
Y = np.array([[7, 8], [9, 10]], np.float32)


def write_config(folder: Path, platform: str, **more: Any) -> Path:
    folder.mkdir()
    config = {"name": "addition", "platform": platform, **SPECS, **more}
    (folder / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True))
    return folder


class Addition(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x + y}


class FromDict(torch.nn.Module):
    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"out": inputs["x"] + inputs["y"]}


class Bare(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def write_torchscript(path: Path, module: torch.nn.Module) -> Path:
    folder = write_config(path, "torchscript")
    (folder / "0" / "data").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(folder / "0" / "data" / "model.pt"))
    return folder


def write_tensorflow(path: Path) -> Path:
    folder = write_config(path, "tensorflow")
    (folder / "0" / "data").mkdir(parents=True)
    with tf.Graph().as_default() as graph:
        x, y = (tf.compat.v1.placeholder(tf.float32, name=name) for name in ("x", "y"))
        tf.add(x, y, name="out")
    (folder / "0" / "data" / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())
    nodes = {"node_name_mapping": {"x": "x:0", "y": "y:0", "out": "out:0"}, "init_op_names": {}}
    (folder / "0" / "config.json").write_text(json.dumps(nodes))
    return folder


def write_python(path: Path) -> Path:
    folder = write_config(path, "python", custom_ops=[], input_tensor_device={"x": "GPU", "y": "GPU"})
    code = folder / "0" / "code" / "addition"
    code.mkdir(parents=True)
    (folder / "0" / "data").mkdir()
    (code / "model.py").write_text(
        "def addition(x, y):\n    return {'out': x + y}\n\ndef get_model(data_path):\n    return addition\n"
    )
    entry = {"entrypoint": "get_model", "entrypoint_package": "addition.model"}
    (folder / "0" / "config.json").write_text(json.dumps(entry))
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "torchscript": lambda path: write_torchscript(path, Addition()),
    "torchscript, one dictionary": lambda path: write_torchscript(path, FromDict()),
    "torchscript, bare tensor": lambda path: write_torchscript(path, Bare()),
    "tensorflow": write_tensorflow,
    "python": write_python,
}


@pytest.fixture(params=WRITERS.values(), ids=list(WRITERS))
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder: Path = request.param(tmp_path / "legacy.neuropod")
    return folder


def opened(package: Path) -> Neuropod:
    return load_neuropod(package, trust="code")


def test_legacy_package_runs(package: Path) -> None:
    with opened(package) as model:
        result = model.infer({"x": X, "y": Y})

    assert list(result) == ["out"]
    np.testing.assert_array_equal(result["out"], X + Y)


def test_legacy_package_ties_symbols_among_inputs(package: Path) -> None:
    with opened(package) as model, pytest.raises(TensorMismatchError, match=r"with cols=2, .* at inputs\.y"):
        model.infer({"x": X, "y": Y[:, :1]})


def test_legacy_package_takes_every_tensor_as_optional(package: Path) -> None:
    with opened(package) as model:
        assert all(spec.optional for spec in (*model.inputs, *model.outputs))


def test_legacy_package_reads_pickled_test_data(package: Path) -> None:
    data = {"test_input": {"x": X, "y": Y}, "test_output": {"out": X + Y}}
    (package / "test_data.pkl").write_bytes(pickle.dumps(data, protocol=2))

    with opened(package) as model:
        assert model.test() == {"out": 0.0}


def test_legacy_python_package_still_needs_trust(tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        load_neuropod(write_python(tmp_path / "legacy.neuropod"))
