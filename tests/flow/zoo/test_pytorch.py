"""PyTorch modules on every platform that they can be exported to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import zoo_pytorch
from safetensors.torch import save_file
from zoo_specimen import MODELS, Feed, Run, Specimen, Write

from neuropod_core import Problem
from neuropod_core import packagers as offered
from neuropod_core.packagers import create_onnx_neuropod, create_python_neuropod, create_torchscript_neuropod

RANDOM = np.random.default_rng(11)

NO_EXPORT = "PyTorch exports nothing that TensorFlow reads"
NO_MEMORY = "an ONNX graph keeps nothing from one call to the next"
NOT_WRITTEN = "code of AOTInductor 2.13 adds to this buffer and does not write it back"
NO_STRINGS = "exported programs have no strings"
ON_VALUES = "an exported graph cannot loop as long as values say"
FIXED = "torch.export fixes how long the sequences are that a recurrent layer takes"
PACKED = "torch.export cannot trace layers that hold packed int8 weights"


def numbers(*shape: int, dtype: Any = np.float32) -> Any:
    return RANDOM.normal(size=shape).astype(dtype)


# -- by hand, and as packages -----------------------------------------------------------------------------------------


def by_hand(name: str) -> Run:
    module = zoo_pytorch.made(name)

    def run(feed: Feed) -> Mapping[str, Any]:
        with torch.inference_mode():
            results = module(**{key: zoo_pytorch.tensor_of(array) for key, array in feed.items()})
        named = results if isinstance(results, dict) else {"y": results}
        return {key: zoo_pytorch.array_of(value) for key, value in named.items()}

    return run


def as_torchscript(name: str, problem: Problem, path: Path) -> None:
    create_torchscript_neuropod(
        neuropod_path=path, model_name=name, problem=problem, module=torch.jit.script(zoo_pytorch.made(name))
    )


def as_exported(platform: str, name: str, problem: Problem, path: Path) -> None:
    write = getattr(offered, f"create_{platform}_neuropod")
    write(neuropod_path=path, model_name=name, problem=problem, module=zoo_pytorch.made(name))


def as_onnx(name: str, feed: Feed, problem: Problem, path: Path) -> None:
    symbols = {symbol: torch.export.Dim(symbol) for spec in problem.inputs for symbol in spec.symbols}
    shapes = {
        spec.name: {axis: symbols[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in problem.inputs
    }
    program = torch.onnx.export(
        zoo_pytorch.made(name),
        kwargs={key: zoo_pytorch.tensor_of(array) for key, array in feed.items()},
        input_names=[spec.name for spec in problem.inputs],
        output_names=[spec.name for spec in problem.outputs],
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    create_onnx_neuropod(neuropod_path=path, model_name=name, problem=problem, model=program.model_proto)


def as_python(name: str, problem: Problem, path: Path) -> None:
    source = path.with_suffix(".source")
    source.mkdir()
    (source / "name").write_text(name)
    files = ["name"]
    weights = zoo_pytorch.made(name).state_dict()
    if weights and all(isinstance(value, torch.Tensor) for value in weights.values()) and name != "quantised":
        save_file(weights, source / "weights.safetensors")
        files.append("weights.safetensors")
    create_python_neuropod(
        neuropod_path=path,
        model_name=name,
        problem=problem,
        entrypoint_package="zoo_pytorch",
        entrypoint="load",
        code_path_spec=[{"python_root": MODELS, "dirs_to_package": ["zoo_pytorch.py"]}],
        data_paths=[{"path": source / file, "packaged_name": file} for file in files],
        stateful=name == "counter",
    )


# -- the specimens ----------------------------------------------------------------------------------------------------


def specimen(
    name: str, shows: str, inputs: Mapping[str, str], outputs: Mapping[str, str], *feeds: Feed, **more: Any
) -> Specimen:
    problem = Problem.of(inputs, outputs, name=f"zoo_{name}")
    writers: dict[str, Write] = {
        "torchscript": partial(as_torchscript, name, problem),
        "torch_export": partial(as_exported, "torch_export", name, problem),
        "torch_aoti": partial(as_exported, "torch_aoti", name, problem),
        "onnx": partial(as_onnx, name, feeds[0], problem),
        "python": partial(as_python, name, problem),
    }
    for platform in more.pop("untried", ()):
        del writers[platform]
    cannot = {"tensorflow": NO_EXPORT, **more.pop("cannot", {})}
    return Specimen("PyTorch", name, shows, problem, feeds, partial(by_hand, name), writers, cannot, **more)


_COMPILED = frozenset({"torch_aoti"})  # Each takes the C++ compiler ten seconds.

SPECIMENS = [
    specimen(
        "mlp",
        "two dense layers, any batch",
        {"x": "float32[N, 16]"},
        {"y": "float32[N, 4]"},
        *({"x": numbers(rows, 16)} for rows in (3, 1, 64)),
    ),
    specimen(
        "cnn",
        "convolution, batch normalisation and pooling",
        {"image": "float32[N, 3, 16, 16]"},
        {"y": "float32[N, 5]"},
        *({"image": numbers(rows, 3, 16, 16)} for rows in (2, 1, 5)),
        long=_COMPILED,
    ),
    specimen(
        "lstm",
        "a recurrent layer over sequences of any length",
        {"steps": "float32[N, T, 8]"},
        {"y": "float32[N, 3]"},
        *({"steps": numbers(rows, length, 8)} for rows, length in ((3, 5), (1, 9), (2, 1))),
        cannot={"torch_export": FIXED, "torch_aoti": FIXED},
        untried=(
            "torch_export",
            "torch_aoti",
        ),  # Once torch.export failed here, torch.onnx.export fixes the length too.
    ),
    specimen(
        "transformer",
        "two encoder layers over sequences of any length",
        {"tokens": "float32[N, T, 16]"},
        {"y": "float32[N, T, 16]"},
        *({"tokens": numbers(rows, length, 16)} for rows, length in ((3, 5), (1, 7), (4, 2))),
        long=_COMPILED,
    ),
    specimen(
        "pair",
        "two inputs and two outputs of different types",
        {"x": "float32[N, 4]", "place": "int64[N]"},
        {"picked": "float32[N]", "is_positive": "bool[N]"},
        *({"x": numbers(rows, 4), "place": RANDOM.integers(0, 4, rows)} for rows in (3, 1, 8)),
        long=_COMPILED,
    ),
    specimen(
        "dynamic_length",
        "a convolution over series of any length",
        {"series": "float32[N, 4, T]"},
        {"y": "float32[N, 8]"},
        *({"series": numbers(rows, 4, length)} for rows, length in ((2, 6), (1, 30), (5, 3))),
        long=_COMPILED,
    ),
    specimen(
        "counter",
        "stateful: counts its calls",
        {"x": "float32[N]"},
        {"y": "float32[N]"},
        *({"x": numbers(rows)} for rows in (3, 3, 2)),
        cannot={"onnx": NO_MEMORY, "torch_aoti": NOT_WRITTEN},
        long=_COMPILED,
    ),
    specimen(
        "embedding",
        "whole numbers looked up in a table, sequences of any length",
        {"words": "int64[N, T]"},
        {"y": "float32[N, 2]"},
        *({"words": RANDOM.integers(0, 50, (rows, length))} for rows, length in ((2, 3), (1, 7), (6, 2))),
        long=_COMPILED,
    ),
    specimen(
        "half",
        "half precision in, within and out",
        {"x": "float16[N, 16]"},
        {"y": "float16[N, 4]"},
        *({"x": numbers(rows, 16, dtype=np.float16)} for rows in (3, 1, 8)),
        tolerance=5e-3,
        long=_COMPILED,
    ),
    specimen(
        "bfloat16",
        "bfloat16 in, within and out",
        {"x": "bfloat16[N, 16]"},
        {"y": "bfloat16[N, 4]"},
        *({"x": numbers(rows, 16).astype(ml_dtypes.bfloat16)} for rows in (3, 1, 8)),
        tolerance=5e-2,
        cannot={"onnx": "the CPU kernels of ONNX Runtime multiply no matrices of bfloat16"},
        long=_COMPILED,
    ),
    specimen(
        "int8_weights",
        "weights kept as int8, brought to float32 for each call",
        {"x": "float32[N, 16]"},
        {"y": "float32[N, 4]"},
        *({"x": numbers(rows, 16)} for rows in (3, 1, 8)),
        long=_COMPILED,
    ),
    specimen(
        "quantised",
        "dense layers that compute in int8",
        {"x": "float32[N, 16]"},
        {"y": "float32[N, 4]"},
        *({"x": numbers(rows, 16)} for rows in (3, 1, 8)),
        cannot={"onnx": PACKED, "torch_export": PACKED, "torch_aoti": PACKED},
    ),
    specimen(
        "branching",
        "repeats as long as the values say",
        {"x": "float32[N]"},
        {"y": "float32[N]"},
        *({"x": numbers(rows) * scale} for rows, scale in ((3, 1), (2, 40), (5, 9))),
        cannot=dict.fromkeys(("onnx", "torch_export", "torch_aoti"), ON_VALUES),
    ),
    specimen(
        "words",
        "text in, text out",
        {"words": "string[N]"},
        {"greeting": "string[N]", "parting": "string[N]"},
        *({"words": np.array(words, object)} for words in (["anna", "Ünal", ""], ["z"])),
        cannot=dict.fromkeys(("onnx", "torch_export", "torch_aoti"), NO_STRINGS),
    ),
]


@pytest.mark.parametrize(("specimen", "platform"), [case for one in SPECIMENS for case in one.cases()])
def test_package_agrees_with_the_module(
    specimen: Specimen, platform: str, agree: Callable[[Specimen, str], None]
) -> None:
    agree(specimen, platform)
