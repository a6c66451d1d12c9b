"""What users hold becomes a package that runs, or one error and nothing on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import Neuropod, PackagingError, Problem, load_neuropod
from neuropod_tf import create_keras_neuropod, create_tensorflow_neuropod

ONE = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
SPECS = [tf.TensorSpec([None], tf.float32, name="x")]
X = np.array([1, 2, 3], np.float32)
Loaded = Callable[[], Neuropod]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Say where the package goes."""
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages" / "model.neuropod"


@pytest.fixture
def loaded(path: Path) -> Iterator[Loaded]:
    """Load the package; closed after the test."""
    models = []

    def load() -> Neuropod:
        models.append(load_neuropod(path))
        return models[-1]

    yield load
    for model in models:
        model.close()


class Scale(tf.Module):
    """A module whose call is a plain method."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(2.0)

    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": x * self.weight}


class Decorated(tf.Module):
    """A module with one function of another name and a bare result."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(2.0)

    @tf.function(input_signature=SPECS)
    def scale(self, x: Any) -> Any:
        return x * self.weight


class Two(Decorated):
    """A module with two functions."""

    @tf.function(input_signature=SPECS)
    def shift(self, x: Any) -> Any:
        return x + self.weight


class Default(Two):
    """A module that says which of its functions is served."""

    @tf.function(input_signature=SPECS)
    def serving_default(self, x: Any) -> Any:
        return x * self.weight


def _checkpoint() -> Any:
    root = tf.train.Checkpoint(weight=tf.Variable(2.0))
    root.served = tf.function(lambda x: x * root.weight)
    return root


def _closure() -> Any:
    weight = tf.Variable(2.0)
    return lambda x: x * weight


def _reloaded(folder: Path) -> Any:
    module = Decorated()
    tf.saved_model.save(module, str(folder), signatures=module.scale)
    return tf.saved_model.load(str(folder))


_DECORATED = Decorated()  # TensorFlow's bound methods hold their objects weakly.
_HELD: dict[str, Callable[[Path], Any]] = {
    "module with a plain call": lambda _: Scale(),
    "module with one function": lambda _: Decorated(),
    "module with serving_default": lambda _: Default(),
    "checkpoint": lambda _: _checkpoint(),
    "function": lambda _: tf.function(lambda x: x * 2.0),
    "function with a signature": lambda _: tf.function(lambda x: x * 2.0, input_signature=SPECS),
    "concrete function": lambda _: tf.function(lambda x: x * 2.0).get_concrete_function(*SPECS),
    "plain function": lambda _: lambda x: {"y": x * 2.0},
    "function over a variable": lambda _: _closure(),
    "bound method": lambda _: _DECORATED.scale,
    "reloaded SavedModel": lambda folder: _reloaded(folder / "saved"),
}


@pytest.mark.parametrize("kind", _HELD)
def test_what_users_hold_is_packaged(kind: str, path: Path, loaded: Loaded, tmp_path: Path) -> None:
    create_tensorflow_neuropod(
        neuropod_path=path,
        model_name="double",
        trackable_obj=_HELD[kind](tmp_path),
        problem=ONE,
        test_input_data={"x": X},
        test_expected_out={"y": X * 2},
    )

    assert loaded().infer({"x": X})["y"].tolist() == [2, 4, 6]


def test_a_function_of_a_module_is_chosen_by_name(path: Path, loaded: Loaded) -> None:
    create_tensorflow_neuropod(neuropod_path=path, model_name="m", trackable_obj=Two(), problem=ONE, signature="shift")

    assert loaded().infer({"x": X})["y"].tolist() == [3, 4, 5]


def test_numbered_outputs_take_the_names_of_the_problem_in_order(path: Path, loaded: Loaded) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"more": "float32[N]", "less": "float32[N]"})
    create_tensorflow_neuropod(
        neuropod_path=path, model_name="m", trackable_obj=lambda x: (x + 1.0, x - 1.0), problem=problem
    )

    assert {name: y.tolist() for name, y in loaded().infer({"x": X}).items()} == {"more": [2, 3, 4], "less": [0, 1, 2]}


def test_a_saved_model_folder_is_packaged_with_its_files(path: Path, loaded: Loaded, tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("one\ntwo\n")
    module = tf.Module()
    module.words = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    module.served = tf.function(
        lambda word: {"id": module.words.lookup(word)}, input_signature=[tf.TensorSpec([None], tf.string, name="word")]
    )
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.served)
    vocabulary.unlink()
    create_tensorflow_neuropod(
        neuropod_path=path,
        model_name="words",
        saved_model_dir=tmp_path / "saved",
        node_name_mapping={"text": "word"},
        input_spec=[{"name": "text", "dtype": "string", "shape": ("N",)}],
        output_spec=[{"name": "id", "dtype": "int64", "shape": ("N",)}],
        package_as_zip=False,
        test_input_data={"text": np.array(["two", "three"])},
        test_expected_out={"id": np.array([1, -1])},
    )

    assert loaded().infer({"text": np.array(["one", "two"])})["id"].tolist() == [0, 1]
    written = json.loads((path / "0" / "config.json").read_text())
    assert written == {"init_op_names": [], "node_name_mapping": {"text": "word"}}


@pytest.mark.parametrize("form", ["frozen_graph_path", "graph_def", "graph"])
def test_a_graph_is_packaged(form: str, path: Path, loaded: Loaded, tmp_path: Path) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None], name="in/x")
        tf.multiply(x, 2.0, name="out/y")
    file = tmp_path / "graph.pb"
    file.write_bytes(graph.as_graph_def().SerializeToString())
    forms: dict[str, dict[str, Any]] = {
        "frozen_graph_path": {"frozen_graph_path": file},
        "graph_def": {"graph_def": graph.as_graph_def()},
        "graph": {"graph_def": graph},
    }
    create_tensorflow_neuropod(
        neuropod_path=path, model_name="m", problem=ONE, node_name_mapping={"x": "in/x:0", "y": "out/y"}, **forms[form]
    )

    assert loaded().infer({"x": X})["y"].tolist() == [2, 4, 6]


# -- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of .* got none"),
        ({"saved_model_dir": "a", "graph_def": 1}, "exactly one of .* got saved_model_dir, graph_def"),
        ({"saved_model_dir": "absent"}, "cannot be read: No such file or directory - at absent/saved_model.pb"),
        ({"frozen_graph_path": "absent", "node_name_mapping": {"x": "a", "y": "b"}}, "No such file"),
        ({"graph_def": tf.Graph(), "node_name_mapping": {"x": "a"}}, "names 'x', the problem also has 'y'"),
        ({"graph_def": tf.Graph(), "node_name_mapping": {"x": "a", "y": "b"}, "signature": "s"}, "no signatures"),
        ({"trackable_obj": 3}, "3 is nothing that TensorFlow can save"),
        ({"trackable_obj": Two()}, r"no function '__call__' \(its functions: 'scale', 'shift'\)"),
        ({"trackable_obj": Two(), "signature": "absent"}, "no function 'absent'"),
        ({"trackable_obj": lambda z: z}, "cannot be traced with the arguments 'x'"),
        ({"trackable_obj": lambda x: {"z": x}}, r"no output 'y' \(it has: 'z' float32\[\?\]\)"),
        ({"trackable_obj": lambda x: {"y": tf.cast(x, tf.int32)}}, r"expected float32\[N\] .* has int32\[\?\]"),
        ({"trackable_obj": lambda x: 1 / 0 * x}, "saved: ZeroDivisionError: division by zero"),
        ({"trackable_obj": Scale(), "node_name_mapping": {"w": "x"}}, "node_name_mapping names 'w'"),
        ({"trackable_obj": Scale(), "init_op_names": 3}, "init_op_names"),
        ({"trackable_obj": Scale(), "test_input_data": {"x": X}, "test_expected_out": {"y": X}}, "test data expects"),
    ],
    ids=str,
)
def test_what_cannot_be_packaged_is_one_error_and_nothing_on_disk(path: Path, arguments: Any, words: str) -> None:
    with pytest.raises(PackagingError, match=words) as raised:
        create_tensorflow_neuropod(**{"neuropod_path": path, "model_name": "m", "problem": ONE, **arguments})

    assert isinstance(raised.value, ValueError)
    assert not list(path.parent.iterdir())


# -- Keras


def _functional(**named: Any) -> Any:
    image = keras.Input((4,), name="image")
    aux = keras.Input((None, 2), name="aux")
    scores = keras.layers.Dense(3, name="scores")(image)
    mean = keras.layers.GlobalAveragePooling1D(name="mean")(aux)
    return keras.Model(
        {"image": image, "aux": aux} if named.get("dict_in") else [image, aux], named.get("out", list)([scores, mean])
    )


@pytest.mark.parametrize(
    ("out", "names"),
    [(list, ["scores", "mean"]), (lambda pair: {"s": pair[0], "m": pair[1]}, ["m", "s"])],
    ids=["list", "dictionary"],
)
@pytest.mark.parametrize("dict_in", [False, True])
def test_the_problem_is_read_off_a_keras_model(path: Path, loaded: Loaded, out: Any, names: Any, dict_in: bool) -> None:
    model = _functional(out=out, dict_in=dict_in)
    inputs = {"image": np.ones((2, 4), np.float32), "aux": np.ones((2, 5, 2), np.float32)}
    create_keras_neuropod(neuropod_path=path, model_name="keras", model=model, sess=None)

    package = loaded()

    specs = {spec.name: spec.shape for spec in (*package.inputs, *package.outputs)}
    assert specs["image"] == ("batch_size", 4)
    assert specs["aux"] == ("batch_size", None, 2)
    assert sorted(spec.name for spec in package.outputs) == sorted(names)
    scores, mean = ("scores", "mean") if "scores" in names else ("s", "m")
    expected = model(inputs if dict_in else list(inputs.values()))
    expected = expected if isinstance(expected, dict) else dict(zip(names, expected, strict=True))
    results = package.infer(inputs)
    for name in (scores, mean):
        np.testing.assert_allclose(results[name], expected[name].numpy(), rtol=1e-6)


@pytest.mark.parametrize("theirs", ["scores", "output_0"])
def test_names_of_a_keras_model_are_mapped(path: Path, loaded: Loaded, theirs: str) -> None:
    mapping = {"picture": "image", "sequence": "aux", "logits": theirs, "average": "mean"}
    problem = Problem.of(
        {"picture": "float32[N, 4]", "sequence": "float32[N, T, 2]"},
        {"logits": "float32[N, 3]", "average": "float32[N, 2]"},
    )
    create_keras_neuropod(
        neuropod_path=path, model_name="keras", model=_functional(), node_name_mapping=mapping, problem=problem
    )

    inputs = {"picture": np.zeros((2, 4), np.float32), "sequence": np.ones((2, 5, 2), np.float32)}
    results = loaded().infer(inputs)

    assert results["logits"].shape == (2, 3)
    assert results["average"].tolist() == [[1, 1], [1, 1]]


def test_a_mapping_names_the_tensors_of_the_problem_that_is_read_off(path: Path, loaded: Loaded) -> None:
    mapping = {"picture": "image", "logits": "scores"}
    create_keras_neuropod(neuropod_path=path, model_name="keras", model=_functional(), node_name_mapping=mapping)

    assert str(loaded().problem) == (
        "(picture: float32[batch_size, 4], aux: float32[batch_size, ?, 2])"
        " -> (logits: float32[batch_size, 3], mean: float32[batch_size, 2])"
    )


def test_a_sequential_keras_model_is_packaged(path: Path, loaded: Loaded) -> None:
    model = keras.Sequential([keras.Input((4,), name="image"), keras.layers.Dense(3), keras.layers.Softmax(name="p")])
    create_keras_neuropod(neuropod_path=path, model_name="keras", model=model)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)

    np.testing.assert_allclose(loaded().infer({"image": x})["p"], model(x).numpy(), rtol=1e-6)


class Subclassed(keras.Model):
    """A model that does not know its tensors before it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def test_a_subclassed_keras_model_is_packaged_for_a_problem(path: Path, loaded: Loaded) -> None:
    model = Subclassed()
    x = np.ones((2, 4), np.float32)
    expected = model(x).numpy()
    create_keras_neuropod(
        neuropod_path=path,
        model_name="keras",
        model=model,
        problem=Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 3]"}),
        node_name_mapping={"y": "output_0"},
    )

    np.testing.assert_allclose(loaded().infer({"x": x})["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (lambda: 3, {}, "expected a Keras 3 model, got 3"),
        (Subclassed, {}, "does not know its inputs and outputs"),
        (_functional, {"node_name_mapping": {"x": "absent"}}, "node_name_mapping"),
        (
            _functional,
            {"problem": Problem.of({"image": "float32[N, 4]", "aux": "float32[N, T, 2]"}, {"z": "float32[N, 3]"})},
            "no tensor 'z' .it has: scores, mean, ",
        ),
    ],
    ids=["no model", "unknown tensors", "mapping", "name"],
)
def test_keras_models_that_cannot_be_packaged_leave_nothing(path: Path, model: Any, arguments: Any, words: str) -> None:
    with pytest.raises(PackagingError, match=words):
        create_keras_neuropod(neuropod_path=path, model_name="keras", model=model(), **arguments)

    assert not list(path.parent.iterdir())


def test_packaging_prints_nothing(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    create_keras_neuropod(neuropod_path=path, model_name="keras", model=_functional())

    out, err = capfd.readouterr()
    assert not out
    assert not [line for line in err.splitlines() if line[:1] not in ("I", "W", "E")]
