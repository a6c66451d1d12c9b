"""Functions saved as SavedModels and opened as the backend opens them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import LoadOptions, Problem, Variant, load_neuropod
from neuropod_tf import create_keras_neuropod, create_tensorflow_neuropod
from neuropod_tf.plugin import TensorFlowBackend
from neuropod_tf.session import SessionExecutor

v1 = tf.compat.v1
Save = Callable[..., Path]
Open = Callable[..., SessionExecutor]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a function (of a module, where it has state) as a SavedModel in the folder of a variant; gives that."""
    numbers = itertools.count()

    def write(
        function: Any, /, *, module: tf.Module | None = None, name: str = "serving_default", **shapes: Any
    ) -> Path:
        folder = tmp_path / f"model{next(numbers)}" / "0"
        root = module or tf.Module()
        specs = [tf.TensorSpec(shape, dtype, name=key) for key, (dtype, shape) in shapes.items()]
        served = tf.function(function, input_signature=specs)
        root.served = served
        signatures = {name: served.get_concrete_function()}
        tf.saved_model.save(root, str(folder / "data" / "savedmodel"), signatures=signatures)
        return folder

    return write


@pytest.fixture
def open_folder() -> Iterator[Open]:
    """Open the folder of a variant; closed after the test."""
    executors = []

    def load(
        folder: Path, problem: Problem, *, device: str = "cpu", config: Mapping[str, Any] | None = None, **options: Any
    ) -> SessionExecutor:
        variant = Variant("tensorflow", folder, problem, config=config or {})
        executor = TensorFlowBackend().load(variant, LoadOptions(device, options))
        assert isinstance(executor, SessionExecutor)
        executors.append(executor)
        return executor

    yield load
    for executor in executors:
        if hasattr(executor, "_session"):
            executor.close()


@pytest.fixture
def serve(save: Save, open_folder: Open) -> Open:
    """Save a function with one input ``x`` and open it: ``serve(function, "float32[N]", {"y": "float32[N]"})``."""

    def load(function: Any, x: str, outputs: Mapping[str, str], **arguments: Any) -> SessionExecutor:
        problem = Problem.of({"x": x}, dict(outputs))
        (spec,) = problem.inputs
        shape = [dim if isinstance(dim, int) else None for dim in spec.shape]
        folder = save(function, module=arguments.pop("module", None), x=(spec.dtype.value, shape))
        return open_folder(folder, problem, **arguments)

    return load


# -- the zoo: a model in the forms that can express it


def _frozen(animal: Any) -> tuple[Any, dict[str, str]]:
    """Freeze what is served; gives the graph and its names."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    concrete = animal.concrete()
    names = sorted(spec.name for spec in animal.problem.outputs)  # TensorFlow's order of a dictionary.
    frozen = convert_variables_to_constants_v2(concrete)
    inputs = {tensor.op.name: tensor.name for tensor in frozen.inputs}
    outputs = dict(zip(names, (tensor.name for tensor in frozen.outputs), strict=True))
    return frozen.graph.as_graph_def(), {**inputs, **outputs}


def _as_saved_model(animal: Any, path: Path, folder: Path) -> None:
    tf.saved_model.save(animal, str(folder), signatures=animal.concrete())
    create_tensorflow_neuropod(neuropod_path=path, model_name="m", saved_model_dir=folder, problem=animal.problem)


def _as_frozen_graph(animal: Any, path: Path, folder: Path) -> None:
    graph, names = _frozen(animal)
    del folder
    create_tensorflow_neuropod(
        neuropod_path=path, model_name="m", graph_def=graph, node_name_mapping=names, problem=animal.problem
    )


def _as_tf1(animal: Any, path: Path, folder: Path) -> None:
    definition, names = _frozen(animal)
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(definition, name="")
        info = {name: v1.saved_model.build_tensor_info(graph.get_tensor_by_name(node)) for name, node in names.items()}
        sides = [
            {spec.name: info[spec.name] for spec in side} for side in (animal.problem.inputs, animal.problem.outputs)
        ]
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.build_signature_def(*sides)
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    create_tensorflow_neuropod(neuropod_path=path, model_name="m", saved_model_dir=folder, problem=animal.problem)


def _as_keras(animal: Any, path: Path, folder: Path) -> None:
    del folder
    create_keras_neuropod(neuropod_path=path, model_name="m", model=animal.model, problem=animal.problem)


FORMS: Mapping[str, Callable[[Any, Path, Path], None]] = {
    "Keras": _as_keras,
    "SavedModel": _as_saved_model,
    "frozen graph": _as_frozen_graph,
    "TF1 SavedModel": _as_tf1,
}


def _difference(got: Any, wanted: Any) -> float:
    """Compare with what the framework gave; exactly, where it is no number of floating point."""
    if wanted.dtype.kind in "OS":
        assert (got.shape, [text.encode() for text in got.ravel()]) == (wanted.shape, wanted.ravel().tolist())
        return 0.0
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    return float(np.max(np.abs(got.astype("float64") - wanted.astype("float64")), initial=0))


def _largest_difference(
    path: Path, calls: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]], folder: Path
) -> float:
    found = 0.0
    with load_neuropod(path, cache_dir=folder / "cache") as model:
        for inputs, wanted in zip(calls, expected, strict=True):
            results = model.infer(inputs)
            assert set(results) == set(wanted)
            found = max(found, *(_difference(results[name], wanted[name]) for name in wanted))
    return found


@pytest.fixture
def zoo_form() -> Callable[[str], Callable[..., None]]:
    """Give what packages a model of the zoo in a form: takes the model, the package, a folder to work in."""
    return FORMS.__getitem__


@pytest.fixture
def largest_difference() -> Callable[..., float]:
    """Run the calls of a model on its package, and give the largest difference to what is expected."""
    return _largest_difference
