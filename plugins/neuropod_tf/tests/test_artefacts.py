"""SavedModels of every origin, frozen graphs, signatures, names of nodes, tables and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import ModelLoadError, PackageFormatError, Problem

Open = Callable[..., Any]
v1 = tf.compat.v1
SUM = Problem.of({"x": "float32[?, ?]", "y": "float32[?, ?]"}, {"out": "float32[?, ?]"})
ONE = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
A, B = np.array([[1, 2], [3, 4]], np.float32), np.array([[7, 8], [9, 10]], np.float32)
MAPPING = {"x": "some_namespace/in_x:0", "y": "some_namespace/in_y", "out": "some_namespace/out:0"}


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """Write a frozen graph as the original tool's packages have it."""
    graph = tf.Graph()
    with graph.as_default(), tf.name_scope("some_namespace"):
        x = v1.placeholder(tf.float32, [None, None], name="in_x")
        y = v1.placeholder(tf.float32, [None, None], name="in_y")
        tf.add(x, y, name="out")
    folder = tmp_path / "frozen" / "0"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return folder


def _built(folder: Path, graph: tf.Graph, inputs: dict[str, Any], outputs: dict[str, Any], **arguments: Any) -> Path:
    """Save a graph of TF1 with its variables by the builder of TF1."""
    path = folder / "0"
    with v1.Session(graph=graph) as session, graph.as_default():
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        info = v1.saved_model.build_tensor_info
        sides = ({key: info(tensor) for key, tensor in side.items()} for side in (inputs, outputs))
        signature = v1.saved_model.build_signature_def(*sides)
        builder = v1.saved_model.Builder(str(path / "data" / "savedmodel"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, **arguments)
        builder.save()
    return path


# -- frozen graphs


@pytest.mark.parametrize("init_ops", [{}, [], None, ""], ids=repr)
def test_a_frozen_graph_runs_by_the_names_of_its_nodes(frozen: Path, open_folder: Open, init_ops: Any) -> None:
    executor = open_folder(frozen, SUM, config={"node_name_mapping": MAPPING, "init_op_names": init_ops})

    assert executor.infer({"x": A, "y": B})["out"].tolist() == [[8, 10], [12, 14]]


def test_init_ops_run_once(tmp_path: Path, open_folder: Open) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None], name="x")
        kept = v1.get_variable("kept", initializer=5.0, use_resource=True)
        tf.identity(x + kept.assign_add(1.0, read_value=True), name="y")
        v1.global_variables_initializer()
    folder = tmp_path / "0"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())

    for name in ("init", "init:0", "^init", ["init"]):
        executor = open_folder(folder, ONE, config={"init_op_names": name})
        assert [executor.infer({"x": np.zeros(1, np.float32)})["y"][0] for _ in range(2)] == [6, 7]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"node_name_mapping": {**MAPPING, "out": "absent"}},
            "no output 'absent', which node_name_mapping gives for 'out'",
        ),
        ({"node_name_mapping": {**MAPPING, "out": "some_namespace/out:7"}}, "no output 'some_namespace/out:7'"),
        ({"node_name_mapping": {**MAPPING, "y": "some_namespace/in_x"}}, "the inputs 'x', 'y' are one tensor"),
        ({}, "no input 'x'"),
        ({"node_name_mapping": MAPPING, "init_op_names": "absent"}, "absent"),
        ({"node_name_mapping": MAPPING, "signature": "other"}, "no signature 'other' .there are: none"),
    ],
    ids=["node", "output number", "one tensor twice", "no mapping", "init op", "signature"],
)
def test_names_that_are_not_there_are_refused(frozen: Path, open_folder: Open, config: Any, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        open_folder(frozen, SUM, config=config)


def test_names_that_the_problem_does_not_have_mean_nothing(frozen: Path, open_folder: Open) -> None:
    executor = open_folder(frozen, SUM, config={"node_name_mapping": {**MAPPING, "z": "absent"}})

    assert executor.infer({"x": A, "y": B})["out"].tolist() == [[8, 10], [12, 14]]


@pytest.mark.parametrize(
    "config",
    [{"node_name_mapping": ["x"]}, {"node_name_mapping": {"x": 3}}, {"init_op_names": 3}, {"init_op_names": [3]}],
)
def test_a_config_of_wrong_types_is_refused(frozen: Path, open_folder: Open, config: Any) -> None:
    with pytest.raises(PackageFormatError):
        open_folder(frozen, SUM, config={"node_name_mapping": MAPPING, **config})


def test_an_input_that_the_problem_does_not_have_is_refused(frozen: Path, open_folder: Open) -> None:
    problem = Problem.of({"x": "float32[?, ?]"}, {"out": "float32[?, ?]"})
    mapping = {key: MAPPING[key] for key in ("x", "out")}

    with pytest.raises(ModelLoadError, match=r"also needs the inputs 'some_namespace/in_y' \(the problem has: 'x'\)"):
        open_folder(frozen, problem, config={"node_name_mapping": mapping})


# -- files


@pytest.mark.parametrize("file", ["model.pb", "savedmodel/saved_model.pb"])
@pytest.mark.parametrize("content", [b"", b"\x93 no model at all", b"\xff" * 1000], ids=["empty", "garbage", "bits"])
def test_damaged_files_are_refused(tmp_path: Path, open_folder: Open, file: str, content: bytes) -> None:
    path = tmp_path / "0" / "data" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

    with pytest.raises(ModelLoadError):
        open_folder(tmp_path / "0", ONE)


def test_a_package_without_a_model_is_refused(tmp_path: Path, open_folder: Open) -> None:
    (tmp_path / "0").mkdir()

    with pytest.raises(PackageFormatError, match="data/savedmodel"):
        open_folder(tmp_path / "0", ONE)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty folder"])
def test_damaged_variables_are_refused(save: Any, open_folder: Open, damage: str) -> None:
    module = tf.Module()
    module.weight = tf.Variable(tf.ones([1000]))
    folder = save(lambda x: {"y": x * module.weight[0]}, module=module, x=("float32", [None]))
    variables = folder / "data" / "savedmodel" / "variables"
    (content,) = variables.glob("*.data-*")
    if damage == "cut":
        content.write_bytes(content.read_bytes()[:100])
    else:
        for file in variables.iterdir():
            file.unlink()
        if damage == "missing":
            variables.rmdir()

    with pytest.raises(ModelLoadError):
        open_folder(folder, ONE)


def test_a_saved_model_for_training_only_is_refused(save: Any, open_folder: Open) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    folder = save(lambda x: {"y": x}, x=("float32", [None]))
    path = folder / "data" / "savedmodel" / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    saved.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    path.write_bytes(saved.SerializeToString())

    with pytest.raises(ModelLoadError, match=r"no graph with the tag 'serve' \(tags: 'train'\)"):
        open_folder(folder, ONE)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_assets_outside_of_the_model_are_refused(save: Any, open_folder: Open, name: str) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    folder = save(lambda x: {"y": x}, x=("float32", [None]))
    path = folder / "data" / "savedmodel" / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    asset = saved.meta_graphs[0].asset_file_def.add()
    asset.tensor_info.name, asset.filename = "serving_default_x:0", name
    path.write_bytes(saved.SerializeToString())

    with pytest.raises(ModelLoadError, match="no file below assets/"):
        open_folder(folder, ONE)


# -- signatures


def test_a_signature_is_chosen_by_option_or_config(tmp_path: Path, open_folder: Open) -> None:
    module = tf.Module()
    specs = [tf.TensorSpec([None], tf.float32, name="x")]
    module.more = tf.function(lambda x: {"y": x + 1.0}, input_signature=specs)
    module.double = tf.function(lambda x: {"y": x * 2.0}, input_signature=specs)
    signatures = {"serving_default": module.more, "double": module.double}
    tf.saved_model.save(module, str(tmp_path / "0" / "data" / "savedmodel"), signatures=signatures)
    x = np.full(2, 3, np.float32)

    assert open_folder(tmp_path / "0", ONE).infer({"x": x})["y"].tolist() == [4, 4]
    assert open_folder(tmp_path / "0", ONE, signature="double").infer({"x": x})["y"].tolist() == [6, 6]
    assert open_folder(tmp_path / "0", ONE, config={"signature": "double"}).infer({"x": x})["y"].tolist() == [6, 6]
    with pytest.raises(ModelLoadError, match=r"no signature 'triple' \(there are: 'double', 'serving_default'\)"):
        open_folder(tmp_path / "0", ONE, signature="triple")


def test_names_of_a_saved_model_are_mapped_to_keys_and_to_nodes(save: Any, open_folder: Open) -> None:
    folder = save(lambda a: {"b": a * 2.0}, a=("float32", [None]))
    x = np.ones(2, np.float32)

    for mapping in (
        {"x": "a", "y": "b"},
        {"x": "serving_default_a", "y": "b"},
        {"x": "serving_default_a:0", "y": "PartitionedCall:0"},
    ):
        executor = open_folder(folder, ONE, config={"node_name_mapping": mapping})
        assert executor.infer({"x": x})["y"].tolist() == [2, 2]
    with pytest.raises(
        ModelLoadError, match=r"no input 'x' \(it has: 'a' float32\[\?\]\).*node_name_mapping={'x': 'a'}"
    ):
        open_folder(folder, ONE)


def test_a_signature_that_needs_more_than_the_problem_has_is_refused(save: Any, open_folder: Open) -> None:
    folder = save(lambda x, z: {"y": x + z}, x=("float32", [None]), z=("float32", [None]))

    with pytest.raises(ModelLoadError, match=r"also needs the inputs 'z' \(the problem has: 'x'\)"):
        open_folder(folder, ONE)


# -- origins


def test_models_of_the_builder_of_tf1_run(tmp_path: Path, open_folder: Open) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None], name="x")
        scale = v1.placeholder_with_default(tf.constant(1.0), [], name="scale")
        weight = v1.get_variable("weight", initializer=3.0, use_resource=False)
        y = x * weight * scale
    executor = open_folder(_built(tmp_path, graph, {"x": x, "scale": scale}, {"y": y}), ONE)

    assert executor.infer({"x": np.ones(2, np.float32)})["y"].tolist() == [3, 3]
    assert not executor.stateful


def test_references_to_variables_of_tf1_are_no_way_into_the_model(tmp_path: Path, open_folder: Open) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [2], name="x")
        weight = v1.get_variable("weight", initializer=[1.0, 2.0], use_resource=False)
        added = v1.assign_add(weight, x)
    executor = open_folder(_built(tmp_path, graph, {"x": x}, {"y": added}), ONE)
    x = np.ones(2, np.float32)

    first = executor.infer({"x": x})["y"]
    first[...] = -9.0
    second = executor.infer({"x": x})["y"]

    assert executor.stateful
    assert second.tolist() == [3, 4]
    assert first.tolist() == [-9, -9]


def test_tables_and_vocabulary_files_of_tf1_are_filled(tmp_path: Path, open_folder: Open) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("one\ntwo\nthree\n")
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.string, [None], name="x")
        file = tf.constant(str(vocabulary))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, file)
        initializer = tf.lookup.TextFileInitializer(
            file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        y = tf.lookup.StaticHashTable(initializer, -1).lookup(x)
        arguments = {"assets_collection": [file], "main_op": v1.tables_initializer()}
    folder = _built(tmp_path, graph, {"x": x}, {"y": y}, **arguments)
    vocabulary.unlink()
    executor = open_folder(folder, Problem.of({"x": "string[N]"}, {"y": "int64[N]"}))

    assert executor.infer({"x": np.array(["two", "none", "three"], object)})["y"].tolist() == [1, -1, 2]


def test_tables_and_vocabulary_files_of_tf2_are_filled(tmp_path: Path, save: Any, open_folder: Open) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("one\ntwo\nthree\n")
    module = tf.Module()
    module.words = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        num_oov_buckets=1,
    )
    module.keys = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([7, 8], tf.int64)), default_value=-1
    )
    folder = save(
        lambda x: {"word": module.words.lookup(x), "key": module.keys.lookup(x)}, module=module, x=("string", [None])
    )
    vocabulary.unlink()
    executor = open_folder(folder, Problem.of({"x": "string[N]"}, {"word": "int64[N]", "key": "int64[N]"}))

    results = executor.infer({"x": np.array(["two", "b", "three"], object)})

    assert (results["word"].tolist(), results["key"].tolist()) == ([1, 3, 2], [-1, 8, -1])
    assert not executor.stateful


def test_keras_preprocessing_layers_run(tmp_path: Path, open_folder: Open) -> None:
    vectorize = keras.layers.TextVectorization(output_sequence_length=3)
    vectorize.adapt(["red green", "red blue"])
    text = keras.Input((1,), dtype="string", name="text")
    label = keras.Input((1,), dtype="string", name="label")
    lookup = keras.layers.StringLookup(vocabulary=["cat", "dog"])
    model = keras.Model([text, label], [vectorize(text), lookup(label)])
    model.export(str(tmp_path / "0" / "data" / "savedmodel"), verbose=False)
    problem = Problem.of(
        {"text": "string[N, 1]", "label": "string[N, 1]"}, {"ids": "int64[N, 3]", "label_id": "int64[N, 1]"}
    )
    mapping = {"ids": "output_0", "label_id": "output_1"}
    executor = open_folder(tmp_path / "0", problem, config={"node_name_mapping": mapping})

    results = executor.infer({"text": np.array([["Red, pink"]], object), "label": np.array([["dog"]], object)})

    assert (results["ids"].tolist(), results["label_id"].tolist()) == ([[2, 1, 0]], [[2]])
