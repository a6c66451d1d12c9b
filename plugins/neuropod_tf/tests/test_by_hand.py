"""Packages written by hand to the original's layout: a declaration, an artefact, and nothing that may be absent."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import InferenceError, TrustError, load_neuropod

v1 = tf.compat.v1
SPECS = {
    "input_spec": [{"name": "x", "dtype": "float32", "shape": ["batch_size", 2]}],
    "output_spec": [{"name": "y", "dtype": "float32", "shape": ["batch_size", 2]}],
}
TEXT = {
    "input_spec": [{"name": "x", "dtype": "string", "shape": [None]}],
    "output_spec": [{"name": "y", "dtype": "int64", "shape": [None]}],
}
X = np.array([[1, 2], [3, 4]], np.float32)
Write = Callable[[Path], dict[str, Any]]


def _graph(data: Path, build: Callable[[Any], Any]) -> None:
    graph = tf.Graph()
    with graph.as_default():
        build(v1.placeholder(tf.float32, [None, 2], name="scope/in"))
    (data / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())


def _frozen(data: Path) -> dict[str, Any]:
    _graph(data, lambda x: tf.multiply(x, 2.0, name="scope/out"))
    return {**SPECS, "0": {"node_name_mapping": {"x": "scope/in:0", "y": "scope/out"}, "init_op_names": {}}}


def _stateful(data: Path) -> dict[str, Any]:
    def build(x: Any) -> None:
        factor = v1.get_variable("factor", initializer=1.0, use_resource=False)
        tf.multiply(x, v1.assign_add(factor, 1.0), name="scope/out")
        v1.global_variables_initializer()

    _graph(data, build)
    return {**SPECS, "0": {"node_name_mapping": {"x": "scope/in", "y": "scope/out:0"}, "init_op_names": ["init"]}}


def _one_init_op(data: Path) -> dict[str, Any]:
    written = _stateful(data)
    written["0"]["init_op_names"] = "init"
    return written


def _saved_model(data: Path) -> dict[str, Any]:
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    specs = [tf.TensorSpec([None, 2], tf.float32, name="x")]
    module.run = tf.function(lambda x: {"y": x * module.factor, "more": x}, input_signature=specs)
    tf.saved_model.save(module, str(data / "savedmodel"), signatures=module.run)
    return SPECS


def _saved_model_with_a_config(data: Path) -> dict[str, Any]:
    return {**_saved_model(data), "0": {"node_name_mapping": {}, "init_op_names": {}}}


def _saved_model_of_tf1(data: Path) -> dict[str, Any]:
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, 2])
        y = x * v1.get_variable("factor", initializer=2.0, use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(data / "savedmodel"), {"x": x}, {"y": y})
    return SPECS


def _keras(data: Path) -> dict[str, Any]:
    x = keras.Input((2,), name="x")
    keras.Model({"x": x}, {"y": keras.layers.Rescaling(2.0)(x)}).export(str(data / "savedmodel"), verbose=False)
    return SPECS


def _table(data: Path) -> dict[str, Any]:
    vocabulary = data / "words.txt"
    vocabulary.write_text("one\ntwo\n")
    module = tf.Module()
    whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    initializer = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, whole, tf.int64, line)
    module.table = tf.lookup.StaticVocabularyTable(initializer, num_oov_buckets=1)
    module.run = tf.function(
        lambda x: {"y": module.table.lookup(x)}, input_signature=[tf.TensorSpec([None], tf.string, name="x")]
    )
    tf.saved_model.save(module, str(data / "savedmodel"), signatures=module.run)
    vocabulary.unlink()
    return TEXT


DOUBLES: dict[str, Write] = {
    "frozen graph": _frozen,
    "SavedModel": _saved_model,
    "SavedModel with a config": _saved_model_with_a_config,
    "SavedModel of TF1": _saved_model_of_tf1,
    "Keras": _keras,
}


@pytest.fixture(params=["folder", "zip"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Write], Path]:
    """Write a package by hand, as a folder or a zip, and move it away from where it was written."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))

    def write(kind: Write) -> Path:
        folder = tmp_path / "made"
        (folder / "0" / "data").mkdir(parents=True)
        declared = kind(folder / "0" / "data")
        specs = {key: declared[key] for key in ("input_spec", "output_spec")}
        (folder / "config.json").write_text(json.dumps({"name": "hand", "platform": "tensorflow", **specs}))
        if "0" in declared:
            (folder / "0" / "config.json").write_text(json.dumps(declared["0"]))
        if request.param == "folder":
            return folder.rename(tmp_path / "moved")
        with zipfile.ZipFile(tmp_path / "m.neuropod", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder))
        folder.rename(tmp_path / "gone")
        return tmp_path / "m.neuropod"

    return write


@pytest.mark.parametrize("kind", DOUBLES)
def test_a_package_by_hand_runs(kind: str, written: Callable[[Write], Path]) -> None:
    with load_neuropod(written(DOUBLES[kind])) as model:
        assert model.infer({"x": X})["y"].tolist() == [[2, 4], [6, 8]]
        assert model.infer({"x": X}, ["y"])["y"].tolist() == [[2, 4], [6, 8]]
        assert not model.stateful
        with pytest.raises(InferenceError, match=r"are not found in the input spec|absent"):
            model.infer({"absent": X})


@pytest.mark.parametrize("kind", [_stateful, _one_init_op], ids=["list", "string"])
def test_a_graph_by_hand_keeps_its_state(kind: Write, written: Callable[[Write], Path]) -> None:
    path = written(kind)
    for _ in range(2):  # Each time it is loaded it starts anew.
        with load_neuropod(path) as model:
            assert [model.infer({"x": X})["y"].tolist()[0] for _ in range(2)] == [[2, 4], [3, 6]]
            assert model.stateful


def test_a_vocabulary_travels_in_a_package_by_hand(written: Callable[[Write], Path]) -> None:
    with load_neuropod(written(_table)) as model:
        assert model.infer({"x": np.array(["two", "unheard of", "one"])})["y"].tolist() == [1, 2, 0]


def test_a_graph_is_not_admitted_as_data(written: Callable[[Write], Path]) -> None:
    with pytest.raises(TrustError, match="graph"):
        load_neuropod(written(_frozen), trust="data")
