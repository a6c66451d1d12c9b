"""Each kind of artefact by hand, in every way that there is, against the same artefact through neuropod."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neuropod_core import Array, Tensors
from neuropod_core.packagers import create_keras_neuropod, create_tensorflow_neuropod
from report import Row, faster
from suites._framework import Ways, compared, measured, way
from timing import Effort
from workloads import MLP, WORKLOADS, Workload, weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it while it is imported.

import tensorflow as tf

__all__ = ["measure"]

SIGNATURE = "the signature"
TIMES_FASTER = 5


def measure(effort: Effort) -> list[Row]:
    """Compare on every workload; with a call of the signature where the call is what takes the time."""
    tf.get_logger().setLevel("ERROR")  # It advises against the loader that sessions need.
    rows = []
    for work in WORKLOADS:
        figures = measured(work, partial(_package, work), partial(_ways, work), effort)
        rows.append(compared("tensorflow", work.title, figures))
        if work.kind in ("mlp", "add"):
            rows.append(faster("tensorflow", work.title, figures, SIGNATURE, times=TIMES_FASTER))
    for kind, package in _KINDS.items():
        rows.append(compared("tensorflow", f"{kind}, MLP", measured(MLP, package, partial(_ways, MLP), effort)))
    return rows


def _package(work: Workload, path: Path) -> None:
    specs = [tf.TensorSpec([_length(dim) for dim in spec.shape], tf.float32, spec.name) for spec in work.problem.inputs]
    module = tf.Module()
    module.weights = {name: tf.Variable(value) for name, value in weights(work.kind).items()}
    module.run = tf.function(partial(_FUNCTIONS[work.kind], module.weights), input_signature=specs, autograph=False)
    create_tensorflow_neuropod(
        neuropod_path=path, model_name=work.kind, trackable_obj=module, problem=work.problem, package_as_zip=False
    )


def _length(dim: int | str | None) -> int | None:
    return dim if isinstance(dim, int) else None


def _mlp(held: dict[str, Any], x: Any) -> dict[str, Any]:
    return {"y": tf.nn.relu(x @ held["w1"] + held["b1"]) @ held["w2"] + held["b2"]}


def _add(held: dict[str, Any], a: Any, b: Any) -> dict[str, Any]:
    del held
    return {"y": a + b}


def _conv(held: dict[str, Any], x: Any) -> dict[str, Any]:
    """Convolve with the channels last, as TensorFlow does on a CPU; in and out they are first."""
    rows = tf.transpose(x, [0, 2, 3, 1])
    for kernel in ("k1", "k2"):
        rows = tf.nn.relu(tf.nn.conv2d(rows, tf.transpose(held[kernel], [2, 3, 1, 0]), 1, "SAME"))
    return {"y": tf.transpose(rows, [0, 3, 1, 2])}


def _scale(held: dict[str, Any], x: Any) -> dict[str, Any]:
    return {"y": x * held["factor"]}


_FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {"mlp": _mlp, "add": _add, "conv": _conv, "scale": _scale}


def _mlp_graph(variables: Callable[[str, Any], Any]) -> tuple[tf.Graph, Any, Any]:
    """Build the MLP as TF1 did."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 64], name="x")
        held = {name: variables(name, value) for name, value in weights("mlp").items()}
        return graph, x, tf.identity(_mlp(held, x)["y"], name="y")


def _package_frozen(path: Path) -> None:
    graph, _, _ = _mlp_graph(lambda name, value: tf.constant(value, name=name))
    create_tensorflow_neuropod(
        neuropod_path=path,
        model_name="mlp",
        graph_def=graph,
        node_name_mapping={"x": "x", "y": "y"},
        problem=MLP.problem,
        package_as_zip=False,
    )


def _package_tf1(path: Path) -> None:
    v1 = tf.compat.v1
    graph, x, y = _mlp_graph(lambda name, value: v1.get_variable(name, initializer=value, use_resource=False))
    with TemporaryDirectory(prefix="neuropod-bench-") as folder, graph.as_default(), v1.Session(graph=graph) as session:
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, f"{folder}/saved", {"x": x}, {"y": y})
        create_tensorflow_neuropod(
            neuropod_path=path,
            model_name="mlp",
            saved_model_dir=f"{folder}/saved",
            problem=MLP.problem,
            package_as_zip=False,
        )


def _package_keras(path: Path) -> None:
    import keras

    held = weights("mlp")
    x = keras.Input((64,), name="x")
    hidden = keras.layers.Dense(64, activation="relu", name="hidden")(x)
    model = keras.Model({"x": x}, {"y": keras.layers.Dense(10, name="y")(hidden)})
    model.set_weights([held["w1"], held["b1"], held["w2"], held["b2"]])
    create_keras_neuropod(neuropod_path=path, model_name="mlp", model=model, problem=MLP.problem, package_as_zip=False)


_KINDS: dict[str, Callable[[Path], None]] = {
    "frozen graph": _package_frozen,
    "TF1 SavedModel": _package_tf1,
    "Keras": _package_keras,
}


def _ways(work: Workload, folder: Path) -> Ways:
    names = [spec.name for spec in work.problem.inputs]
    ways = {
        "a session's callable": way(work, _session_callable(folder, names)),
        "a session's callable, in the caller's thread": way(work, _session_callable(folder, names, inline=True)),
    }
    if (folder / "savedmodel").is_dir():
        ways["PartitionedCall"] = way(work, _partitioned_call(folder / "savedmodel", names))
        ways[SIGNATURE] = way(work, _signature(folder / "savedmodel", names))
    return ways


def _session_callable(folder: Path, names: list[str], *, inline: bool = False) -> Callable[[Tensors], Array]:
    """Prepare one call of a session, as `Session.run` does anew at each call."""
    from tensorflow.core.protobuf import config_pb2

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        feeds, fetch = _opened(session, folder, names)
    options = config_pb2.CallableOptions(feed=feeds, fetch=[fetch])
    if inline:
        options.run_options.inter_op_thread_pool = -1
    call = session._make_callable_from_options(options)  # noqa: SLF001 - the cheapest way has no public name
    if len(names) == 1:
        return lambda inputs: call(inputs["x"])[0]
    return lambda inputs: call(inputs["a"], inputs["b"])[0]


def _opened(session: Any, folder: Path, names: list[str]) -> tuple[list[str], str]:
    """Open the artefact in a session; gives the names of its tensors."""
    frozen = folder / "model.pb"
    if frozen.exists():
        graph = tf.compat.v1.GraphDef.FromString(frozen.read_bytes())
        tf.graph_util.import_graph_def(graph, name="")
        return [f"{name}:0" for name in names], "y:0"
    loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / "savedmodel"))
    signature = loaded.signature_def["serving_default"]
    return [signature.inputs[name].name for name in names], next(iter(signature.outputs.values())).name


def _partitioned_call(folder: Path, names: list[str]) -> Callable[[Tensors], Array]:
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    captured, wanted = list(signature.captured_inputs), [output.dtype for output in signature.outputs]

    def call(inputs: Tensors) -> Array:
        given = [tf.constant(inputs[name]) for name in names]
        result: Array = tf.raw_ops.PartitionedCall(args=[*given, *captured], Tout=wanted, f=signature)[0].numpy()
        return result

    call.keep = loaded  # type: ignore[attr-defined]  # The variables die with it.
    return call


def _signature(folder: Path, names: list[str]) -> Callable[[Tensors], Array]:
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]

    def call(inputs: Tensors) -> Array:
        result: Array = next(iter(signature(**{name: tf.constant(inputs[name]) for name in names}).values())).numpy()
        return result

    call.keep = loaded  # type: ignore[attr-defined]
    return call
