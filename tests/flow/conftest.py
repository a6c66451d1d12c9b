"""The same small models in four frameworks, each in the framework's own manner and packaged for its platform."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Read while TensorFlow is imported.

import numpy as np
import pytest
import tensorflow as tf
import torch
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import Neuropod, Problem, load_neuropod
from neuropod_core.packagers import (
    create_onnx_neuropod,
    create_python_neuropod,
    create_tensorflow_neuropod,
    create_torchscript_neuropod,
)

PLATFORMS = ("onnx", "python", "tensorflow", "torchscript")
LENGTH = 4

WEIGHTS = np.arange(LENGTH * 3, dtype=np.float32).reshape(LENGTH, 3) - 5
OFFSETS = np.array([1, 2, 3], np.float32)

PROBLEMS = {
    "affine": Problem.of({"x": f"float32[N, {LENGTH}]"}, {"y": "float32[N, 3]"}, name="affine"),
    **{
        kind: Problem.of({"x": f"float32[{LENGTH}]"}, {"y": f"float32[{LENGTH}]"}, name=kind)
        for kind in ("identity", "in_place", "buffer", "constant")
    },
}

Write = Callable[..., Path]
Opened = Callable[..., Neuropod]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NEUROPOD_TRUST", raising=False)


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def problem() -> Callable[[str], Problem]:
    return PROBLEMS.__getitem__


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the package of one kind of model for one platform."""

    def written(platform: str, kind: str, **arguments: Any) -> Path:
        path = tmp_path / f"{kind}-{platform}.neuropod"
        _WRITERS[platform](kind, neuropod_path=path, model_name=kind, problem=PROBLEMS[kind], **arguments)
        return path

    return written


@pytest.fixture
def opened(write: Write) -> Iterator[Opened]:
    """Write and load; closed after the test."""
    with ExitStack() as models:

        def load(platform: str, kind: str) -> Neuropod:
            path = write(platform, kind)
            return models.enter_context(load_neuropod(path, trust="code"))

        yield load


# -- torchscript ------------------------------------------------------------------------------------------------------


class _Holder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(WEIGHTS))
        self.register_buffer("offsets", torch.from_numpy(OFFSETS))
        self.register_buffer("held", torch.full((LENGTH,), 7.0))


class _Affine(_Holder):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x @ self.weights + self.offsets}


class _Identity(_Holder):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x}


class _InPlace(_Holder):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x.add_(1)}


class _Buffer(_Holder):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.held.copy_(x)
        return {"y": self.held}


class _Constant(_Holder):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.held}


_TORCH = {"affine": _Affine, "identity": _Identity, "in_place": _InPlace, "buffer": _Buffer, "constant": _Constant}


def _write_torchscript(kind: str, **arguments: Any) -> None:
    create_torchscript_neuropod(module=_TORCH[kind](), **arguments)


# -- tensorflow -------------------------------------------------------------------------------------------------------


class _TensorFlow(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.held = tf.Variable(np.full(LENGTH, 7, np.float32))

    def affine(self, x: Any) -> Any:
        return tf.linalg.matmul(x, WEIGHTS) + OFFSETS

    def identity(self, x: Any) -> Any:
        return tf.identity(x)

    def in_place(self, x: Any) -> Any:
        rows = tf.range(LENGTH)
        return tf.raw_ops.InplaceAdd(x=x, i=rows, v=tf.ones(LENGTH))

    def buffer(self, x: Any) -> Any:
        self.held.assign(x)
        return self.held.read_value()

    def constant(self, x: Any) -> Any:
        del x
        return self.held.read_value()


def _write_tensorflow(kind: str, **arguments: Any) -> None:
    shape = [None if isinstance(dim, str) else dim for dim in PROBLEMS[kind].inputs[0].shape]
    module = _TensorFlow()
    method = getattr(module, kind)
    module.run = tf.function(lambda x: {"y": method(x)}, input_signature=[tf.TensorSpec(shape, tf.float32, "x")])
    create_tensorflow_neuropod(trackable_obj=module, **arguments)


# -- onnx -------------------------------------------------------------------------------------------------------------

_ONNX = {  # ONNX has no operator that writes into its input, and no variables.
    "affine": [("Gemm", ["x", "weights", "offsets"], "y")],
    "identity": [("Identity", ["x"], "y")],
    "in_place": [("Add", ["x", "one"], "y")],
    "buffer": [("Identity", ["x"], "copy"), ("Identity", ["copy"], "y")],
    "constant": [("Identity", ["held"], "y")],
}


def _write_onnx(kind: str, **arguments: Any) -> None:
    held = {"weights": WEIGHTS, "offsets": OFFSETS, "one": np.float32(1), "held": np.full(LENGTH, 7, np.float32)}
    nodes = [helper.make_node(operator, given, [result]) for operator, given, result in _ONNX[kind]]
    used = {name for node in nodes for name in node.input}
    sides = [
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in side]
        for side in (PROBLEMS[kind].inputs, PROBLEMS[kind].outputs)
    ]
    weights = [numpy_helper.from_array(np.asarray(held[name]), name) for name in sorted(used & set(held))]
    graph = helper.make_graph(nodes, kind, *sides, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    create_onnx_neuropod(model=model, **arguments)


# -- python -----------------------------------------------------------------------------------------------------------

_PYTHON = """
import numpy as np

def affine(data_path):
    with np.load(f"{data_path}/weights.npz") as held:
        weights, offsets = held["weights"], held["offsets"]
    return lambda x: {"y": x @ weights + offsets}

def identity(data_path):
    return lambda x: {"y": x}

def in_place(data_path):
    def call(x):
        x += 1
        return {"y": x}
    return call

def buffer(data_path):
    held = np.zeros(4, np.float32)
    def call(x):
        held[:] = x
        return {"y": held}
    return call

def constant(data_path):
    held = np.full(4, 7, np.float32)
    return lambda x: {"y": held}
"""


def _write_python(kind: str, **arguments: Any) -> None:
    root = arguments["neuropod_path"].with_suffix(".source")
    root.mkdir()
    (root / "models.py").write_text(textwrap.dedent(_PYTHON))
    np.savez(root / "weights.npz", weights=WEIGHTS, offsets=OFFSETS)
    create_python_neuropod(
        entrypoint_package="models",
        entrypoint=kind,
        code_path_spec=[{"python_root": root, "dirs_to_package": ["models.py"]}],
        data_paths=[{"path": root / "weights.npz", "packaged_name": "weights.npz"}],
        **arguments,
    )


_WRITERS: dict[str, Callable[..., None]] = {
    "onnx": _write_onnx,
    "python": _write_python,
    "tensorflow": _write_tensorflow,
    "torchscript": _write_torchscript,
}
