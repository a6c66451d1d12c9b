"""Keras models: as SavedModels, converted to ONNX, and in Python packages as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Read while TensorFlow is imported.

import keras
import numpy as np
import onnx
import pytest
import zoo_keras
from zoo_specimen import MODELS, Feed, Run, Specimen, Write, renamed

from neuropod_core import Problem
from neuropod_core.packagers import create_keras_neuropod, create_onnx_neuropod, create_python_neuropod

RANDOM = np.random.default_rng(3)

NO_EXPORT = "Keras on TensorFlow exports nothing that PyTorch reads"
NO_TABLES = "tf2onnx converts no lookup tables of text"


def numbers(*shape: int, dtype: Any = np.float32) -> Any:
    return RANDOM.normal(size=shape).astype(dtype)


# -- the models -------------------------------------------------------------------------------------------------------


def dense() -> Any:
    x = keras.Input((16,), name="x")
    return keras.Model(x, keras.layers.Dense(4, name="y")(keras.layers.Dense(32, "relu")(x)))


def convolution() -> Any:
    image = keras.Input((16, 16, 3), name="image")
    features = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(image))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.MaxPooling2D()(features))
    return keras.Model(image, keras.layers.Dense(5, "softmax", name="scores")(pooled))


def functional_pair() -> Any:
    left, right = keras.Input((8,), name="left"), keras.Input((3,), name="right")
    first = keras.layers.Dense(4, name="first")(left)
    second = keras.layers.Dense(2, name="second")(keras.layers.concatenate([first, right]))
    return keras.Model([left, right], [first, second])


def recurrent() -> Any:
    steps = keras.Input((None, 8), name="steps")
    return keras.Model(steps, keras.layers.Dense(3, name="y")(keras.layers.LSTM(16)(steps)))


def attention() -> Any:
    tokens = keras.Input((None, 8), name="tokens")
    mixed = keras.layers.MultiHeadAttention(2, 4)(tokens, tokens)
    return keras.Model(tokens, keras.layers.LayerNormalization(name="y")(mixed))


def half() -> Any:
    x = keras.Input((16,), name="x", dtype="float16")
    return keras.Model(x, keras.layers.Dense(4, name="y", dtype="float16")(x))


def text() -> Any:
    word = keras.Input((), dtype="string", name="word")
    number = keras.layers.StringLookup(vocabulary=["yes", "no"])(word)
    return keras.Model(word, keras.layers.Embedding(4, 3, name="vector")(number))


def made(make: Callable[[], Any]) -> Any:
    keras.utils.set_random_seed(7)
    return make()


# -- by hand, and as packages -----------------------------------------------------------------------------------------


def by_hand(make: Callable[[], Any]) -> Run:
    call = zoo_keras.called(made(make))
    return lambda feed: call(**feed)


def as_tensorflow(make: Callable[[], Any], problem: Problem, path: Path) -> None:
    create_keras_neuropod(neuropod_path=path, model_name="zoo", problem=problem, model=made(make))


def as_onnx(make: Callable[[], Any], feed: Feed, problem: Problem, path: Path) -> None:
    model, file = made(make), path.with_suffix(".onnx")
    zoo_keras.called(model)(**feed)  # Keras exports models that were called only.
    model.export(file, format="onnx", verbose=False)
    converted = renamed(onnx.load(file), problem)
    create_onnx_neuropod(neuropod_path=path, model_name="zoo", problem=problem, model=converted)


def as_python(make: Callable[[], Any], problem: Problem, path: Path) -> None:
    held = path.with_suffix(".keras")
    made(make).save(held)
    create_python_neuropod(
        neuropod_path=path,
        model_name="zoo",
        problem=problem,
        entrypoint_package="zoo_keras",
        entrypoint="load",
        code_path_spec=[{"python_root": MODELS, "dirs_to_package": ["zoo_keras.py"]}],
        data_paths=[{"path": held, "packaged_name": "model.keras"}],
    )


def specimen(
    make: Callable[[], Any],
    shows: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *feeds: Feed,
    **more: Any,
) -> Specimen:
    name = make.__name__
    problem = Problem.of(inputs, outputs, name=f"zoo_{name}")
    writers: dict[str, Write] = {
        "tensorflow": partial(as_tensorflow, make, problem),
        "onnx": partial(as_onnx, make, feeds[0], problem),
        "python": partial(as_python, make, problem),
    }
    cannot = {**dict.fromkeys(("torchscript", "torch_export", "torch_aoti"), NO_EXPORT), **more.pop("cannot", {})}
    return Specimen("Keras", name, shows, problem, feeds, partial(by_hand, make), writers, cannot, **more)


SPECIMENS = [
    specimen(
        dense,
        "two dense layers, any batch",
        {"x": "float32[N, 16]"},
        {"y": "float32[N, 4]"},
        *({"x": numbers(rows, 16)} for rows in (3, 1, 64)),
    ),
    specimen(
        convolution,
        "convolution, batch normalisation and pooling",
        {"image": "float32[N, 16, 16, 3]"},
        {"scores": "float32[N, 5]"},
        *({"image": numbers(rows, 16, 16, 3)} for rows in (2, 1)),
    ),
    specimen(
        functional_pair,
        "two inputs and two outputs",
        {"left": "float32[N, 8]", "right": "float32[N, 3]"},
        {"first": "float32[N, 4]", "second": "float32[N, 2]"},
        *({"left": numbers(rows, 8), "right": numbers(rows, 3)} for rows in (3, 1)),
    ),
    specimen(
        recurrent,
        "a recurrent layer over sequences of any length",
        {"steps": "float32[N, T, 8]"},
        {"y": "float32[N, 3]"},
        *({"steps": numbers(rows, length, 8)} for rows, length in ((3, 5), (1, 9))),
    ),
    specimen(
        attention,
        "attention over sequences of any length",
        {"tokens": "float32[N, T, 8]"},
        {"y": "float32[N, T, 8]"},
        *({"tokens": numbers(rows, length, 8)} for rows, length in ((3, 5), (1, 9))),
        tolerance=1e-4,
    ),
    specimen(
        half,
        "half precision in, within and out",
        {"x": "float16[N, 16]"},
        {"y": "float16[N, 4]"},
        *({"x": numbers(rows, 16, dtype=np.float16)} for rows in (3, 1)),
        tolerance=5e-3,
    ),
    specimen(
        text,
        "words looked up in a vocabulary",
        {"word": "string[N]"},
        {"vector": "float32[N, 3]"},
        *({"word": np.array(words, object)} for words in (["yes", "never", "no"], [""])),
        cannot={"onnx": NO_TABLES},
    ),
]


@pytest.mark.parametrize(("specimen", "platform"), [case for one in SPECIMENS for case in one.cases()])
def test_package_agrees_with_the_model(
    specimen: Specimen, platform: str, agree: Callable[[Specimen, str], None]
) -> None:
    agree(specimen, platform)
