"""Kinds of artefact and of tensor beyond one dense signature called ``serving_default``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import ModelLoadError, PackageFormatError, PackagingError, Problem, load_neuropod
from neuropod_tf import create_tensorflow_neuropod

Open = Callable[..., Any]
v1 = tf.compat.v1
ONE = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
X = np.array([1, 2, 3], np.float32)


def _scaling(factor: float, device: str = "") -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default(), graph.device(device):
        tf.multiply(v1.placeholder(tf.float32, [None], name="x"), factor, name="y")
    return graph


def _signature(graph: tf.Graph) -> Any:
    with graph.as_default():
        x, y = (v1.saved_model.build_tensor_info(graph.get_tensor_by_name(f"{name}:0")) for name in "xy")
    return v1.saved_model.build_signature_def({"x": x}, {"y": y})


def _build(folder: Path, graphs: dict[tuple[str, ...], tf.Graph], name: str = "predict", **how: Any) -> Path:
    """Save graphs by their tags with the builder of TF1, each with one signature."""
    path = folder / "0" / "data" / "savedmodel"
    builder = v1.saved_model.Builder(str(path))
    for number, (tags, graph) in enumerate(graphs.items()):
        signatures = {name: _signature(graph)}
        with v1.Session(graph=graph) as session, graph.as_default():
            if number:
                builder.add_meta_graph(list(tags), signatures)
            else:
                builder.add_meta_graph_and_variables(session, list(tags), signatures)
    builder.save(**how)
    return path


# -- which graph, which signature


def test_a_saved_model_in_text_runs(tmp_path: Path, open_folder: Open) -> None:
    path = _build(tmp_path, {("serve",): _scaling(2.0)}, as_text=True)
    executor = open_folder(tmp_path / "0", ONE)

    assert [file.name for file in path.glob("saved_model.*")] == ["saved_model.pbtxt"]
    assert executor.infer({"x": X})["y"].tolist() == [2, 4, 6]


def test_damaged_text_is_refused(tmp_path: Path, open_folder: Open) -> None:
    path = _build(tmp_path, {("serve",): _scaling(2.0)}, as_text=True)
    (path / "saved_model.pbtxt").write_text("meta_graphs { nothing")

    with pytest.raises(ModelLoadError, match=r"saved_model\.pbtxt"):
        open_folder(tmp_path / "0", ONE)


def test_a_signature_of_another_name_runs_if_it_is_the_only_one(tmp_path: Path, open_folder: Open) -> None:
    _build(tmp_path, {("serve",): _scaling(2.0)}, name="classify")

    assert open_folder(tmp_path / "0", ONE).infer({"x": X})["y"].tolist() == [2, 4, 6]


def test_a_graph_is_chosen_by_its_tags(tmp_path: Path, open_folder: Open) -> None:
    graphs = {("serve", "tpu"): _scaling(2.0), ("serve",): _scaling(3.0), ("mine",): _scaling(4.0)}
    _build(tmp_path, graphs)
    folder = tmp_path / "0"

    assert open_folder(folder, ONE).infer({"x": X})["y"][0] == 3
    assert open_folder(folder, ONE, tags="serve,tpu").infer({"x": X})["y"][0] == 2
    assert open_folder(folder, ONE, config={"tags": "mine"}).infer({"x": X})["y"][0] == 4
    with pytest.raises(ModelLoadError, match=r"tag 'other' \(tags: .*'mine'\).*option tags"):
        open_folder(folder, ONE, tags="other")
    with pytest.raises(PackageFormatError, match="tags is a name, not 3"):
        open_folder(folder, ONE, config={"tags": 3})


def test_tags_are_packaged(tmp_path: Path) -> None:
    source = _build(tmp_path, {("mine", "gpu"): _scaling(4.0)})
    path = tmp_path / "m.neuropod"
    arguments: dict[str, Any] = {"model_name": "m", "problem": ONE}
    create_tensorflow_neuropod(neuropod_path=path, saved_model_dir=source, tags=["mine"], **arguments)

    with load_neuropod(path, cache_dir=tmp_path / "cache") as model:
        assert model.infer({"x": X})["y"].tolist() == [4, 8, 12]
    with pytest.raises(PackagingError, match="only a saved_model_dir"):
        create_tensorflow_neuropod(
            neuropod_path=tmp_path / "n", trackable_obj=lambda x: {"y": x}, tags="serve", **arguments
        )


def test_a_graph_in_text_is_packaged(tmp_path: Path) -> None:
    source, path = tmp_path / "graph.pbtxt", tmp_path / "m.neuropod"
    source.write_text(str(_scaling(2.0).as_graph_def()))
    create_tensorflow_neuropod(
        neuropod_path=path,
        model_name="m",
        frozen_graph_path=source,
        node_name_mapping={"x": "x", "y": "y"},
        problem=ONE,
        test_input_data={"x": X},
        test_expected_out={"y": X * 2},
        package_as_zip=False,
    )

    assert (path / "0" / "data" / "model.pb").is_file()


# -- what is computed


@pytest.mark.parametrize("use_resource", [False, True], ids=["references", "resources"])
def test_a_counter_counts_the_calls_that_ask_for_its_output(
    tmp_path: Path, open_folder: Open, use_resource: bool
) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None], name="x")
        runs = v1.get_variable("runs", initializer=0.0, use_resource=use_resource)
        with tf.control_dependencies([v1.assign_add(runs, 1.0)]):
            tf.identity(x * 2.0, name="counted")
        tf.identity(x * 3.0, name="free")
        tf.identity(runs, name="count")
        v1.global_variables_initializer()
    (tmp_path / "0" / "data").mkdir(parents=True)
    (tmp_path / "0" / "data" / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())
    names = {name: name for name in ("x", "counted", "free", "count")}
    problem = Problem.of({"x": "float32[N]"}, {"counted": "float32[N]", "free": "float32[N]", "count": "float32[]"})
    executor = open_folder(tmp_path / "0", problem, config={"node_name_mapping": names, "init_op_names": "init"})

    for _ in range(5):
        assert executor.infer({"x": X}, ["free"])["free"].tolist() == [3, 6, 9]
    assert executor.infer({}, ["count"])["count"] == 0

    for _ in range(3):
        executor.infer({"x": X}, ["counted"])
    assert executor.infer({}, ["count"])["count"] == 3


# -- where it was trained


@pytest.mark.parametrize("device", ["/job:worker/task:3/device:GPU:1", "/gpu:7", "/cpu:5", "/device:TPU:0"])
def test_devices_of_another_machine_do_not_matter(tmp_path: Path, open_folder: Open, device: str) -> None:
    _build(tmp_path, {("serve",): _scaling(2.0, device)})

    assert open_folder(tmp_path / "0", ONE).infer({"x": X})["y"].tolist() == [2, 4, 6]


# -- composite and quantised tensors


def test_ragged_and_sparse_results_are_given_in_parts(save: Any, open_folder: Open) -> None:
    def parts(x: Any) -> dict[str, Any]:
        ragged = tf.RaggedTensor.from_row_lengths(x, [1, 2])
        deep = tf.RaggedTensor.from_row_lengths(ragged, [0, 2])
        return {"s": tf.sparse.from_dense(x), "r": ragged, "d": deep}

    problem = Problem.of(
        {"x": "float32[N]"},
        {
            "s.indices": "int64[K, 1]",
            "s.values": "float32[K]",
            "s.dense_shape": "int64[1]",
            "r.flat_values": "float32[N]",
            "splits": "int64[M]",
            "d.flat_values": "float32[N]",
            "d.row_splits_0": "int64[?]",
            "d.row_splits_1": "int64[?]",
        },
    )
    folder = save(parts, x=("float32", [3]))
    executor = open_folder(folder, problem, config={"node_name_mapping": {"splits": "r.row_splits"}})

    results = executor.infer({"x": np.array([5, 0, 7], np.float32)})

    assert {name: value.tolist() for name, value in results.items()} == {
        "s.indices": [[0], [2]],
        "s.values": [5, 7],
        "s.dense_shape": [3],
        "r.flat_values": [5, 0, 7],
        "splits": [0, 1, 3],
        "d.flat_values": [5, 0, 7],
        "d.row_splits_0": [0, 0, 2],
        "d.row_splits_1": [0, 1, 3],
    }


def test_sparse_inputs_of_tf1_are_taken_in_parts(tmp_path: Path, open_folder: Open) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.sparse_placeholder(tf.float32, [None, 4], name="x")
        y = tf.sparse.to_dense(x)
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)})
    with v1.Session(graph=graph) as session:
        builder = v1.saved_model.Builder(str(tmp_path / "0" / "data" / "savedmodel"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    problem = Problem.of(
        {"x.indices": "int64[K, 2]", "x.values": "float32[K]", "x.dense_shape": "int64[2]"}, {"y": "float32[R, C]"}
    )

    y = open_folder(tmp_path / "0", problem).infer(
        {"x.indices": np.array([[1, 2]]), "x.values": np.array([5], np.float32), "x.dense_shape": np.array([2, 4])}
    )["y"]

    assert y.tolist() == [[0, 0, 0, 0], [0, 0, 5, 0]]


def test_ragged_inputs_are_taken_in_parts(tmp_path: Path, open_folder: Open) -> None:
    module = tf.Module()
    spec = tf.RaggedTensorSpec([None, None], tf.float32)
    module.sums = tf.function(lambda x: {"y": tf.reduce_sum(x, 1)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "0" / "data" / "savedmodel"), signatures=module.sums)
    problem = Problem.of({"x": "float32[N]", "x_1": "int64[M]"}, {"y": "float32[?]"})

    y = open_folder(tmp_path / "0", problem).infer({"x": X, "x_1": np.array([0, 1, 3])})["y"]

    assert y.tolist() == [1, 5]


@pytest.mark.parametrize(("kind", "dtype"), [("quint8", "uint8"), ("qint8", "int8"), ("qint32", "int32")])
@pytest.mark.parametrize("writes", [False, True], ids=["reading", "writing"])
def test_quantised_tensors_are_plain_integers_outside(
    tmp_path: Path, open_folder: Open, kind: str, dtype: str, writes: bool
) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(kind, [None], name="x")
        plain = tf.bitcast(x, dtype)
        one = tf.constant([1], dtype)
        more = tf.raw_ops.InplaceAdd(x=plain, i=[0], v=one) if writes else tf.concat([plain[:1] + one, plain[1:]], 0)
        tf.bitcast(more, kind, name="y")
    (tmp_path / "0" / "data").mkdir(parents=True)
    (tmp_path / "0" / "data" / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())
    problem = Problem.of({"x": f"{dtype}[N]"}, {"y": f"{dtype}[N]"})
    x = np.arange(12, dtype=dtype)[::2]

    y = open_folder(tmp_path / "0", problem).infer({"x": x})["y"]

    assert (y.dtype, y.tolist()) == (np.dtype(dtype), [1, 2, 4, 6, 8, 10])
    assert x.tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("kind", ["resource", "variant", "complex64"])
def test_tensors_that_are_no_arrays_of_ours_are_refused(tmp_path: Path, open_folder: Open, kind: str) -> None:
    graph = tf.Graph()
    with graph.as_default():
        v1.placeholder(tf.float32, [None], name="x")
        tf.identity(v1.placeholder(kind, [None], name="given"), name="y")
    (tmp_path / "0" / "data").mkdir(parents=True)
    (tmp_path / "0" / "data" / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())

    with pytest.raises(ModelLoadError, match=rf"expected float32\[N\] .* the model has {kind}\[\?\] \(y:0\)"):
        open_folder(tmp_path / "0", ONE)
