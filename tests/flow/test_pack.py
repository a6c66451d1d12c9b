"""What each framework saved itself, packaged by the command line and run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from neuropod_core import load_neuropod  # noqa: E402 - after the frameworks, as users may

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
X = np.arange(8, dtype=np.float32).reshape(2, 4)

PROBLEM = """
name = "affine"
[inputs.x]
dtype = "float32"
shape = ["N", 4]
[outputs.y]
dtype = "float32"
shape = ["N", 3]
"""


class Affine(torch.nn.Module):  # type: ignore[name-defined]  # it is skipped where there is none
    def forward(self, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - scripted
        return {"y": x @ torch.arange(12, dtype=torch.float32).reshape(4, 3) - 5 * x.sum(dim=1, keepdim=True)}


def torchscript(folder: Path) -> list[str]:
    torch.jit.save(torch.jit.trace(Affine(), torch.from_numpy(X), strict=False), str(folder / "model.pt"))
    return ["model.pt", "--problem", "problem.toml"]


def exported(folder: Path) -> list[str]:
    rows = {"x": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(Affine(), (torch.from_numpy(X),), dynamic_shapes=rows)
    torch.export.save(program, str(folder / "model.pt2"))
    return ["model.pt2", "--problem", "problem.toml"]


def saved_model(folder: Path) -> list[str]:
    module = tf.Module()
    module.w = tf.Variable(WEIGHTS)
    signature = tf.function(
        lambda x: {"y": x @ module.w}, input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")]
    )
    module.serve = signature
    tf.saved_model.save(module, str(folder / "saved"), signatures={"mine": signature})
    return ["saved/", "--problem", "problem.toml", "--set", "signature=mine"]


def frozen_graph(folder: Path) -> list[str]:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), "data")
        tf.linalg.matmul(x, tf.constant(WEIGHTS), name="product")
    (folder / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return ["graph.pb", "--problem", "problem.toml", "--node", "x=data:0", "--node", "y=product"]


def onnx_model(folder: Path) -> list[str]:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", kind, ["N", 4])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    return ["model.onnx"]


@pytest.mark.parametrize(
    ("platform", "save"),
    [
        ("torchscript", torchscript),
        ("torch_export", exported),
        ("torch_aoti", exported),
        ("tensorflow", saved_model),
        ("tensorflow", frozen_graph),
        ("onnx", onnx_model),
    ],
    ids=["torchscript", "torch_export", "torch_aoti", "saved_model", "frozen_graph", "onnx"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_framework_saved_is_packaged(platform: str, save: Callable[[Path], list[str]], tmp_path: Path) -> None:
    arguments = save(tmp_path)
    (tmp_path / "problem.toml").write_text(PROBLEM)
    np.savez(tmp_path / "in.npz", x=X)
    np.savez(tmp_path / "out.npz", y=X @ WEIGHTS)
    tried = ["-o", "m.neuropod", "--test-data", "in.npz", "--expected", "out.npz", "--json"]

    ran = subprocess.run(
        [sys.executable, "-m", "neuropod_core.cli", "pack", platform, *arguments, *tried],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["tested"]
    with load_neuropod(f"{tmp_path / 'm.neuropod'}#sha256={document['sha256']}", trust="code") as model:
        np.testing.assert_allclose(model.infer({"x": X[:1]})["y"], X[:1] @ WEIGHTS)
