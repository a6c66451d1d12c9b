"""Models made with `onnx.helper`, opened by the backend as the core would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import Executor, LoadOptions, Problem, Variant
from neuropod_onnx.plugin import OnnxBackend


def model_of(
    nodes: list[Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any], *initializers: Any, **options: Any
) -> onnx.ModelProto:
    """Build a model; a tensor is (element type, shape), an initializer (name, array) or a TensorProto."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [item if isinstance(item, TensorProto) else numpy_helper.from_array(item[1], item[0]) for item in initializers],
    )
    options.setdefault("ir_version", 8)
    options.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, **options)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def mlp(*, two_inputs: bool = False) -> onnx.ModelProto:
    random = np.random.default_rng(7)
    weights = [
        ("w1", random.standard_normal((64, 32)).astype(np.float32)),
        ("b1", random.standard_normal(32).astype(np.float32)),
        ("w2", random.standard_normal((32, 10)).astype(np.float32)),
        ("b2", random.standard_normal(10).astype(np.float32)),
    ]
    nodes = [node("Gemm", "s w1 b1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2 b2", "y")]
    inputs = {"x": (TensorProto.FLOAT, ["N", 64])} | ({"z": (TensorProto.FLOAT, ["N", 64])} if two_inputs else {})
    first = node("Add", "x z", "s") if two_inputs else node("Identity", "x", "s")
    return model_of([first, *nodes], inputs, {"y": (TensorProto.FLOAT, ["N", 10])}, *weights)


Opened = Callable[..., Executor]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Open a model: ``opened(model, inputs, outputs, config=..., device=..., **options)``."""
    executors: list[Executor] = []

    def open_model(
        model: Any,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        *,
        config: Mapping[str, Any] | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> Executor:
        variant = variant_of(tmp_path / f"{len(executors)}", model, Problem.of(inputs, outputs), config or {})
        executors.append(OnnxBackend().load(variant, LoadOptions(device, options)))
        return executors[-1]

    yield open_model
    for executor in executors:
        executor.close()


def variant_of(root: Path, model: Any, problem: Problem, config: Mapping[str, Any] | None = None) -> Variant:
    folder = root / "0"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "data" / "model.onnx").write_bytes(content)
    return Variant("onnx", folder, problem, "model", config or {})


@pytest.fixture
def build() -> Any:
    """Give the functions of this file that make models: test files are no package and cannot import it."""

    class Build:
        model = staticmethod(model_of)
        node = staticmethod(node)
        mlp = staticmethod(mlp)
        variant = staticmethod(variant_of)

    return Build
