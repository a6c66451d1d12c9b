"""Writes one package for each classifier, all of them for the problem that ``problem.toml`` declares."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from neuropod_core import Problem
from neuropod_core.packagers import (
    create_keras_neuropod,
    create_onnx_neuropod,
    create_python_neuropod,
    create_torchscript_neuropod,
)
from train import FULL_INK, DigitNet

__all__ = ["PROBLEM", "as_onnx", "package_keras", "package_onnx", "package_python", "package_torchscript"]

HERE = Path(__file__).parent
PROBLEM = Problem.from_file(HERE / "problem.toml")
OPSET, IR_VERSION = 17, 8  # Old enough for every ONNX Runtime that is still in use.


def package_torchscript(model: DigitNet, path: Path, test_data: dict[str, Any]) -> None:
    """Compile the module to TorchScript."""
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # TorchScript is what this package is about.
        scripted = torch.jit.script(model)
    create_torchscript_neuropod(
        neuropod_path=path, model_name="digits", module=scripted, problem=PROBLEM, test_input_data=test_data
    )


def package_keras(model: Any, path: Path, test_data: dict[str, Any]) -> None:
    """Export the Keras model as a SavedModel; its input and output are called as in the problem."""
    create_keras_neuropod(
        neuropod_path=path, model_name="digits", model=model, problem=PROBLEM, test_input_data=test_data
    )


def package_onnx(model: ModelProto, path: Path, test_data: dict[str, Any]) -> None:
    """Take the ONNX graph as it is."""
    create_onnx_neuropod(
        neuropod_path=path, model_name="digits", model=model, problem=PROBLEM, test_input_data=test_data
    )


def package_python(model: LogisticRegression, path: Path, test_data: dict[str, Any]) -> None:
    """Package the code of ``regression/`` with the coefficients beside it: numbers, where a pickle would be code."""
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "coefficients.npz"
        np.savez(held, coef=model.coef_, intercept=model.intercept_, classes=model.classes_)
        create_python_neuropod(
            neuropod_path=path,
            model_name="digits",
            entrypoint_package="regression.entry",
            entrypoint="load_model",
            code_path_spec=[{"python_root": HERE, "dirs_to_package": ["regression"]}],
            data_paths=[{"path": held, "packaged_name": held.name}],
            requirements="numpy\nscikit-learn",
            writes_inputs=False,
            problem=PROBLEM,
            test_input_data=test_data,
        )


def as_onnx(model: MLPClassifier) -> ModelProto:
    """Write scikit-learn's network down as an ONNX graph: its layers are five operators."""
    held = {"ink": np.float32(1 / FULL_INK)}
    for layer, (coefficients, intercepts) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        held |= {f"w{layer}": coefficients.astype(np.float32), f"b{layer}": intercepts.astype(np.float32)}
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"]),
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "ink"], ["rows"]),
        helper.make_node("Gemm", ["rows", "w0", "b0"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w1", "b1"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
