"""Functions of plain NumPy, written once more in the words of each framework: one problem, one answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Read while TensorFlow is imported.

import numpy as np
import pytest
import tensorflow as tf
import torch
import zoo_numpy
from onnx import parser
from torch import Tensor
from zoo_specimen import MODELS, Feed, Run, Specimen, Write

from neuropod_core import DType, Problem
from neuropod_core import packagers as offered
from neuropod_core.packagers import (
    create_onnx_neuropod,
    create_python_neuropod,
    create_tensorflow_neuropod,
    create_torchscript_neuropod,
)

RANDOM = np.random.default_rng(2)

NO_STRINGS = "exported programs have no strings"
NO_MEMORY = "an ONNX graph keeps nothing from one call to the next"


# -- in PyTorch -------------------------------------------------------------------------------------------------------


class Softmax(torch.nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"chances": torch.softmax(x, 1)}


class Statistics(torch.nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            "mean": x.mean(1),
            "largest": x.amax(1),
            "where": x.argmax(1),
            "is_rising": (x >= torch.cummax(x, 1)[0]).all(
                1
            ),  # A slice by one could not take two columns when exported.
        }


class Strings(torch.nn.Module):
    def forward(self, greeting: list[str], name: list[str]) -> dict[str, list[str]]:
        return {"text": [first + second for first, second in zip(greeting, name)]}  # noqa: B905 - TorchScript's zip


class RunningMean(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.total.add_(x.sum(0))
        self.count.add_(x.shape[0])
        return {"mean": self.total / self.count}


# -- in TensorFlow ----------------------------------------------------------------------------------------------------


class InTensorFlow(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total, self.count = tf.Variable(tf.zeros(3)), tf.Variable(0.0)

    def softmax(self, x: Any) -> dict[str, Any]:
        return {"chances": tf.nn.softmax(x, axis=1)}

    def statistics(self, x: Any) -> dict[str, Any]:
        return {
            "mean": tf.reduce_mean(x, 1),
            "largest": tf.reduce_max(x, 1),
            "where": tf.argmax(x, 1),
            "is_rising": tf.reduce_all(x[:, 1:] >= x[:, :-1], 1),
        }

    def strings(self, greeting: Any, name: Any) -> dict[str, Any]:
        return {"text": tf.strings.join([greeting, name])}

    def running_mean(self, x: Any) -> dict[str, Any]:
        total, count = self.total.assign_add(tf.reduce_sum(x, 0)), self.count.assign_add(tf.cast(len(x), tf.float32))
        return {"mean": total / count}


# -- in ONNX ----------------------------------------------------------------------------------------------------------

IN_ONNX = {
    "softmax": "chances = Softmax <axis = 1> (x)",
    "statistics": """
        axes = Constant <value_ints = [1]> ()
        first = Constant <value_ints = [0]> ()
        second = Constant <value_ints = [1]> ()
        last = Constant <value_ints = [-1]> ()
        end = Constant <value_ints = [9223372036854775807]> ()
        mean = ReduceMean <keepdims = 0> (x, axes)
        largest = ReduceMax <keepdims = 0> (x, axes)
        where = ArgMax <axis = 1, keepdims = 0> (x)
        after = Slice (x, second, end, axes)
        before = Slice (x, first, last, axes)
        rises = GreaterOrEqual (after, before)
        rising = Cast <to = 6> (rises)
        all = ReduceMin <keepdims = 0> (rising, axes)
        is_rising = Cast <to = 9> (all)
    """,
    "strings": "text = StringConcat (greeting, name)",
}
ELEMENTS = {DType.FLOAT32: "float", DType.INT64: "int64", DType.BOOL: "bool", DType.STRING: "string"}


# -- as packages ------------------------------------------------------------------------------------------------------


def by_hand(name: str) -> Run:
    call = getattr(zoo_numpy, name)("")
    return lambda feed: call(**feed)


def as_python(name: str, problem: Problem, path: Path) -> None:
    create_python_neuropod(
        neuropod_path=path,
        model_name=name,
        problem=problem,
        entrypoint_package="zoo_numpy",
        entrypoint=name,
        code_path_spec=[{"python_root": MODELS, "dirs_to_package": ["zoo_numpy.py"]}],
    )


def as_torchscript(name: str, module: Callable[[], Any], problem: Problem, path: Path) -> None:
    create_torchscript_neuropod(
        neuropod_path=path, model_name=name, problem=problem, module=torch.jit.script(module().eval())
    )


def as_exported(platform: str, name: str, module: Callable[[], Any], problem: Problem, path: Path) -> None:
    write = getattr(offered, f"create_{platform}_neuropod")
    write(neuropod_path=path, model_name=name, problem=problem, module=module().eval())


def as_tensorflow(name: str, problem: Problem, path: Path) -> None:
    module = InTensorFlow()
    signature = [
        tf.TensorSpec(
            [dim if isinstance(dim, int) else None for dim in spec.shape],
            tf.string if spec.dtype is DType.STRING else tf.float32,
            spec.name,
        )
        for spec in problem.inputs
    ]
    module.run = tf.function(getattr(module, name), input_signature=signature)
    create_tensorflow_neuropod(
        neuropod_path=path, model_name=name, problem=problem, trackable_obj=module, signature="run"
    )


def as_onnx(name: str, problem: Problem, path: Path) -> None:
    inputs, outputs = (", ".join(map(_declared, side)) for side in (problem.inputs, problem.outputs))
    text = f'<ir_version: 9, opset_import: ["" : 20]> graph ({inputs}) => ({outputs}) {{ {IN_ONNX[name]} }}'
    create_onnx_neuropod(neuropod_path=path, model_name=name, problem=problem, model=parser.parse_model(text))


def _declared(spec: Any) -> str:
    return f"{ELEMENTS[spec.dtype]}[{', '.join(map(str, spec.shape))}] {spec.name}"


def specimen(
    name: str,
    shows: str,
    module: Callable[[], Any],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *feeds: Feed,
    **more: Any,
) -> Specimen:
    problem = Problem.of(inputs, outputs, name=f"zoo_{name}")
    writers: dict[str, Write] = {
        "torchscript": partial(as_torchscript, name, module, problem),
        "torch_export": partial(as_exported, "torch_export", name, module, problem),
        "torch_aoti": partial(as_exported, "torch_aoti", name, module, problem),
        "tensorflow": partial(as_tensorflow, name, problem),
        "python": partial(as_python, name, problem),
    }
    writers |= {"onnx": partial(as_onnx, name, problem)} if name in IN_ONNX else {}
    return Specimen(
        "NumPy",
        name,
        shows,
        problem,
        feeds,
        partial(by_hand, name),
        writers,
        long=frozenset({"torch_aoti"}),
        **more,
    )


SPECIMENS = [
    specimen(
        "softmax",
        "a function of one matrix",
        Softmax,
        {"x": "float32[N, M]"},
        {"chances": "float32[N, M]"},
        *({"x": RANDOM.normal(size=shape).astype(np.float32)} for shape in ((3, 4), (1, 9), (5, 2))),
    ),
    specimen(
        "statistics",
        "four outputs of three types",
        Statistics,
        {"x": "float32[N, M]"},
        {"mean": "float32[N]", "largest": "float32[N]", "where": "int64[N]", "is_rising": "bool[N]"},
        *({"x": RANDOM.normal(size=shape).astype(np.float32)} for shape in ((3, 4), (1, 9), (5, 2))),
        {"x": np.arange(12, dtype=np.float32).reshape(3, 4)},
    ),
    specimen(
        "strings",
        "text in, text out",
        Strings,
        {"greeting": "string[N]", "name": "string[N]"},
        {"text": "string[N]"},
        *(
            {"greeting": np.array(first, object), "name": np.array(second, object)}
            for first, second in ((["hello ", "salut "], ["Ünal", "安娜"]), ([""], [""]))
        ),
        cannot=dict.fromkeys(("torch_export", "torch_aoti"), NO_STRINGS),
    ),
    specimen(
        "running_mean",
        "stateful: keeps what it saw",
        RunningMean,
        {"x": "float32[N, 3]"},
        {"mean": "float32[3]"},
        *({"x": RANDOM.normal(size=(rows, 3)).astype(np.float32)} for rows in (3, 3, 2)),
        cannot={"onnx": NO_MEMORY},
    ),
]


@pytest.mark.parametrize(("specimen", "platform"), [case for one in SPECIMENS for case in one.cases()])
def test_package_agrees_with_the_function(
    specimen: Specimen, platform: str, agree: Callable[[Specimen, str], None]
) -> None:
    agree(specimen, platform)
