"""A zoo of TensorFlow and Keras models: each in every form that can express it, against the framework run by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import Problem
from neuropod_tf import create_tensorflow_neuropod

v1 = tf.compat.v1
Arrays = dict[str, Any]
Form = Callable[[str], Callable[..., None]]
Compare = Callable[..., float]
RNG = np.random.default_rng(11)
TOLERANCE = 2e-6


def _normal(*shape: int, dtype: str = "float32") -> Any:
    return RNG.normal(size=shape).astype(dtype)


class Animal(tf.Module):
    """A model with its problem and some calls; a subclass has a `serve` and says what it shows."""

    framework = "TensorFlow"
    shows: str
    problem: Problem
    calls: Sequence[Arrays]
    forms: tuple[str, ...] = ("SavedModel", "frozen graph", "TF1 SavedModel")

    def __init__(self, folder: Path) -> None:
        super().__init__()
        del folder

    def concrete(self) -> Any:
        """Give the function that is served."""
        shapes = {
            spec.name: tf.TensorSpec(
                [n if isinstance(n, int) else None for n in spec.shape], spec.dtype.value, spec.name
            )
            for spec in self.problem.inputs
        }
        return tf.function(self.serve).get_concrete_function(**shapes)

    def by_hand(self, inputs: Arrays) -> Any:
        """Run it eagerly."""
        return self.serve(**{name: tf.constant(value) for name, value in inputs.items()})


class OfKeras(Animal):
    """A model of Keras: its forms begin with Keras' own packager."""

    framework = "Keras"
    forms: tuple[str, ...] = ("Keras", "SavedModel", "frozen graph", "TF1 SavedModel")
    model: Any

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.build()

    def serve(self, **inputs: Any) -> Any:
        return self.model(inputs)


# -- Keras


class BatchNorm(OfKeras):
    shows = "convolutions with batch normalisation and pooling, images of any size"
    problem = Problem.of({"image": "float32[N, H, W, 3]"}, {"scores": "float32[N, 5]"})
    calls = ({"image": _normal(2, 16, 12, 3)}, {"image": _normal(1, 9, 9, 3)})

    def build(self) -> Any:
        image = keras.Input((None, None, 3), name="image")
        x = keras.layers.Conv2D(8, 3, padding="same")(image)
        x = keras.layers.BatchNormalization(moving_mean_initializer="ones", beta_initializer="ones")(x)
        x = keras.layers.SeparableConv2D(8, 3, strides=2, activation="relu")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model({"image": image}, {"scores": keras.layers.Dense(5, activation="softmax")(x)})


class AnyLength(OfKeras):
    shows = "a bidirectional LSTM, then a GRU, over sequences of any length"
    problem = Problem.of({"x": "float32[N, T, 4]"}, {"last": "float32[N, 3]", "all": "float32[N, T, 10]"})
    calls = ({"x": _normal(2, 5, 4)}, {"x": _normal(3, 9, 4)})

    def build(self) -> Any:
        x = keras.Input((None, 4), name="x")
        states = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True))(x)
        return keras.Model({"x": x}, {"all": states, "last": keras.layers.GRU(3)(states)})


class Attention(OfKeras):
    shows = "embedded tokens, masked multi-head attention, layer normalisation"
    problem = Problem.of({"tokens": "int32[N, T]"}, {"scores": "float32[N, 4]"})
    calls = ({"tokens": np.array([[3, 1, 4, 0], [1, 5, 0, 0]], np.int32)},)

    def build(self) -> Any:
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = keras.layers.Embedding(10, 8, mask_zero=True)(tokens)
        x = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(2, 4)(x, x))
        return keras.Model({"tokens": tokens}, {"scores": keras.layers.Dense(4)(keras.layers.GlobalMaxPooling1D()(x))})


class ThreeInputs(OfKeras):
    shows = "three inputs of three types, two outputs, one layer used twice"
    problem = Problem.of(
        {"left": "float32[N, 4]", "right": "float32[N, 4]", "kind": "int32[N]"},
        {"near": "float32[N, 1]", "sum": "float32[N, 6]"},
    )
    calls = ({"left": _normal(3, 4), "right": _normal(3, 4), "kind": np.array([0, 2, 1], np.int32)},)

    def build(self) -> Any:
        left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
        kind = keras.Input((), dtype="int32", name="kind")
        shared = keras.layers.Dense(6, activation="tanh")
        u, v = shared(left), shared(right)
        total = u + v + keras.layers.Embedding(3, 6)(kind)
        near = keras.layers.Dot(axes=1, normalize=True)([u, v])
        return keras.Model({"left": left, "right": right, "kind": kind}, {"near": near, "sum": total})


class Words(OfKeras):
    shows = "text to tokens by an adapted vocabulary, inside of the model"
    problem = Problem.of({"text": "string[N, 1]"}, {"y": "float32[N, 2]"})
    calls = ({"text": np.array([["a Red, red day"], ["unheard of"]], object)},)
    forms = ("Keras", "SavedModel")

    def build(self) -> Any:
        vectorize = keras.layers.TextVectorization(output_sequence_length=4)
        vectorize.adapt(["red day", "a blue day"])
        text = keras.Input((1,), dtype="string", name="text")
        x = keras.layers.Embedding(16, 3)(vectorize(text))
        return keras.Model({"text": text}, {"y": keras.layers.Dense(2)(keras.layers.Flatten()(x))})


class Mixed(OfKeras):
    shows = "dense layers that compute in float16 and keep float32 weights"
    problem = Problem.of({"x": "float32[N, 8]"}, {"y": "float16[N, 3]"})
    calls = ({"x": _normal(4, 8)},)

    def build(self) -> Any:
        x = keras.Input((8,), name="x")
        return keras.Model({"x": x}, {"y": keras.layers.Dense(3, dtype="mixed_float16")(x)})


# -- TensorFlow


class Vocabulary(Animal):
    shows = "lookup tables filled from a file that travels in the package"
    problem = Problem.of({"words": "string[N]"}, {"ids": "int64[N]", "back": "string[N]"})
    calls = ({"words": np.array(["two", "unheard of", "one", "käse"], object)},)
    forms = ("SavedModel",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = folder / "words.txt"
        path.write_text("one\ntwo\nkäse\n", "utf-8")
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        forth = tf.lookup.TextFileInitializer(str(path), tf.string, whole, tf.int64, line)
        back = tf.lookup.TextFileInitializer(str(path), tf.int64, line, tf.string, whole)
        self.ids = tf.lookup.StaticVocabularyTable(forth, num_oov_buckets=2)
        self.words = tf.lookup.StaticHashTable(back, "?")

    def serve(self, words: Any) -> Arrays:
        ids = self.ids.lookup(words)
        return {"ids": ids, "back": self.words.lookup(ids)}


class Loop(Animal):
    shows = "a while loop whose tensors grow, as often as an input says"
    problem = Problem.of({"x": "float32[N]", "times": "int32[]"}, {"y": "float32[M]"})
    calls = tuple({"x": _normal(3), "times": np.array(times, np.int32)} for times in (0, 1, 7))

    def serve(self, x: Any, times: Any) -> Arrays:
        shapes = [tf.TensorShape([]), tf.TensorShape([None])]
        step = lambda i, y: (i + 1, tf.concat([y, y[-1:] * 0.5], 0))  # noqa: E731 - as TensorFlow has them
        return {"y": tf.while_loop(lambda i, _: i < times, step, [0, x], shape_invariants=shapes)[1]}


class Branch(Animal):
    shows = "a condition over inputs, a case, and a map over rows"
    problem = Problem.of({"x": "float32[N, 3]", "up": "bool[]"}, {"y": "float32[N, 3]", "s": "float32[N]"})
    calls = tuple({"x": _normal(4, 3), "up": np.array(up)} for up in (True, False))

    def serve(self, x: Any, up: Any) -> Arrays:
        y = tf.cond(up, lambda: tf.cumsum(x), lambda: tf.reverse(x, [0]))
        return {"y": y, "s": tf.map_fn(tf.linalg.norm, x)}


class Half(Animal):
    shows = "float16 and bfloat16 in, through a product, and out"
    problem = Problem.of({"h": "float16[N, 4]", "b": "bfloat16[N, 4]"}, {"h2": "float16[N, 4]", "b2": "bfloat16[N, 4]"})
    calls = ({"h": _normal(2, 4, dtype="float16"), "b": tf.cast(_normal(2, 4), tf.bfloat16).numpy()},)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.weight = tf.Variable(_normal(4, 4))

    def serve(self, h: Any, b: Any) -> Arrays:
        return {"h2": h @ tf.cast(self.weight, tf.float16), "b2": b @ tf.cast(self.weight, tf.bfloat16)}


class FakeQuantised(Animal):
    shows = "activations and weights quantised for training, per tensor and per channel"
    problem = Problem.of({"x": "float32[N, 8]"}, {"y": "float32[N, 4]"})
    calls = ({"x": _normal(5, 8)},)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.weight = tf.Variable(_normal(8, 4))

    def serve(self, x: Any) -> Arrays:
        x = tf.quantization.fake_quant_with_min_max_args(x, -3, 3)
        low, high = tf.fill([4], -2.0), tf.fill([4], 2.0)
        return {"y": x @ tf.quantization.fake_quant_with_min_max_vars_per_channel(self.weight, low, high)}


class Int8(Animal):
    shows = "an int8 product that adds up in int32, quantised ints in and out"
    problem = Problem.of({"x": "int8[N, 8]"}, {"y": "int32[N, 4]", "q": "uint8[N, 4]"})
    calls = ({"x": RNG.integers(-100, 100, (3, 8)).astype(np.int8)},)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.weight = tf.Variable(RNG.integers(-100, 100, (8, 4)).astype(np.int32))

    def serve(self, x: Any) -> Arrays:
        y = tf.matmul(tf.cast(x, tf.int32), self.weight)
        q = tf.quantization.quantize(tf.cast(y, tf.float32), -80000.0, 80000.0, tf.quint8).output
        return {"y": y, "q": tf.bitcast(q, tf.uint8)}


class Text(Animal):
    shows = "text of many scripts split, joined, counted, matched and parsed"
    problem = Problem.of(
        {"x": "string[N]"},
        {"upper": "string[N]", "length": "int32[N]", "joined": "string[]", "number": "float32[N]", "match": "bool[N]"},
    )
    calls = ({"x": np.array(["a1", "日本 22", "", "nul\0 3"], object)}, {"x": np.array([], object)})

    def serve(self, x: Any) -> Arrays:
        digits = tf.strings.regex_replace(x, r"[^0-9]", "")
        return {
            "upper": tf.strings.upper(x, "utf-8"),
            "length": tf.strings.length(x, "UTF8_CHAR"),
            "joined": tf.strings.reduce_join(x, separator="|"),
            "number": tf.strings.to_number(tf.strings.join(["0", digits])),
            "match": tf.strings.regex_full_match(x, r".*\d"),
        }


_WHOLE = ("bool", "int8", "int16", "int64", "uint8", "uint16", "uint32", "uint64")


def _ones(shape: tuple[int, ...], names: Sequence[str]) -> Arrays:
    return {name: np.ones(shape, name) for name in names}


class Types(Animal):
    shows = "every type of whole number and bool, scalars and empty tensors"
    problem = Problem.of(
        {name: f"{name}[N, ?]" for name in _WHOLE}, {f"{name}_": f"{name}[?]" for name in _WHOLE} | {"rank": "int32[]"}
    )
    calls = tuple(_ones(shape, _WHOLE) for shape in ((2, 3), (0, 3), (1, 0)))

    def serve(self, **inputs: Any) -> Arrays:
        flat = {f"{name}_": tf.reshape(value, [-1]) for name, value in inputs.items()}
        return {**flat, "rank": tf.rank(inputs["bool"])}


class Fft(Animal):
    shows = "complex numbers, a decomposition and random numbers from a seed inside of the graph"
    problem = Problem.of(
        {"x": "float32[N]", "seed": "int32[2]"},
        {"power": "float32[?]", "singular": "float32[?]", "noise": "float32[N]"},
    )
    calls = ({"x": _normal(16), "seed": np.array([1, 2], np.int32)},)

    def serve(self, x: Any, seed: Any) -> Arrays:
        singular = tf.linalg.svd(tf.reshape(x, [4, 4]), compute_uv=False)
        noise = tf.random.stateless_normal(tf.shape(x), seed)
        return {"power": tf.abs(tf.signal.rfft(x)), "singular": singular, "noise": noise}


class Counter(Animal):
    shows = "a tf.Module that counts and averages what it has seen"
    problem = Problem.of({"x": "float32[N]"}, {"calls": "int64[]", "mean": "float32[]"})
    calls = tuple({"x": _normal(3)} for _ in range(4))
    forms = ("SavedModel",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen, self.mean = tf.Variable(0, dtype=tf.int64), tf.Variable(0.0)

    def serve(self, x: Any) -> Arrays:
        seen = self.seen.assign_add(1)
        self.mean.assign_add((tf.reduce_mean(x) - self.mean) / tf.cast(seen, tf.float32))
        return {"calls": seen, "mean": self.mean.read_value()}


_OF_KERAS = (BatchNorm, AnyLength, Attention, ThreeInputs, Words, Mixed)
_OF_TENSORFLOW = (Vocabulary, Loop, Branch, Half, FakeQuantised, Int8, Text, Types, Fft, Counter)
ANIMALS: dict[str, type[Animal]] = {kind.__name__.lower(): kind for kind in (*_OF_KERAS, *_OF_TENSORFLOW)}


@pytest.mark.parametrize("name", ANIMALS)
def test_a_model_agrees_with_tensorflow_in_every_form(
    name: str, tmp_path: Path, zoo_form: Form, largest_difference: Compare, zoo_row: Callable[..., None]
) -> None:
    animal = ANIMALS[name](tmp_path)
    for form in animal.forms:
        zoo_form(form)(animal, tmp_path / f"{form}.neuropod", tmp_path / f"{form} source")
    expected = [
        {key: np.asarray(value.numpy()) for key, value in animal.by_hand(inputs).items()} for inputs in animal.calls
    ]
    for file in tmp_path.glob("*.txt"):
        file.unlink()

    found = [
        largest_difference(tmp_path / f"{form}.neuropod", animal.calls, expected, tmp_path) for form in animal.forms
    ]

    assert max(found) <= TOLERANCE * (1000 if name in {"half", "mixed"} else 1)
    shows = f"{animal.shows} ({', '.join(animal.forms)})"
    zoo_row(framework=animal.framework, model=name, shows=shows, platform="tensorflow", difference=max(found))


# -- graphs of TF1


@pytest.mark.parametrize("use_resource", [False, True], ids=["references", "resources"])
def test_a_trained_graph_of_tf1_agrees_with_its_session(
    use_resource: bool,
    tmp_path: Path,
    largest_difference: Compare,
    zoo_row: Callable[..., None],
) -> None:
    problem = Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 2]"})
    x, graph = _normal(6, 4), tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        fed = v1.placeholder(tf.float32, [None, 4], name="in/x")
        with v1.variable_scope("layer", use_resource=use_resource):
            weight = v1.get_variable("weight", [4, 2])
            bias = v1.get_variable("bias", [2], initializer=v1.zeros_initializer())
        y = tf.nn.softmax(tf.matmul(fed, weight) + bias, name="out/y")
        step = v1.train.AdamOptimizer(0.1).minimize(tf.reduce_sum(y[:, 0]), name="step")
        session.run(v1.global_variables_initializer())
        for _ in range(3):
            session.run(step, {fed: x})
        expected = [{"y": session.run(y, {fed: x})}]
        v1.saved_model.simple_save(session, str(tmp_path / "saved"), {"x": fed}, {"y": y})
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["out/y"])
    common: dict[str, Any] = {"model_name": "m", "problem": problem}
    create_tensorflow_neuropod(neuropod_path=tmp_path / "a", saved_model_dir=tmp_path / "saved", **common)
    mapping = {"x": "in/x:0", "y": "out/y"}
    create_tensorflow_neuropod(neuropod_path=tmp_path / "b", graph_def=frozen, node_name_mapping=mapping, **common)

    found = max(largest_difference(tmp_path / path, [{"x": x}], expected, tmp_path) for path in "ab")

    assert found <= TOLERANCE
    kind = "resource" if use_resource else "reference"
    shows = f"a graph of TF1, trained in a session, with {kind} variables (TF1 SavedModel, frozen graph)"
    zoo_row(framework="TensorFlow", model=f"tf1_{kind}", shows=shows, platform="tensorflow", difference=found)


def test_a_graph_of_tf1_that_remembers_agrees_with_its_session(
    tmp_path: Path, largest_difference: Compare, zoo_row: Callable[..., None]
) -> None:
    problem = Problem.of({"x": "float32[]"}, {"total": "float32[]"})
    graph, calls = tf.Graph(), [{"x": np.array(n, np.float32)} for n in range(4)]
    with graph.as_default(), v1.Session(graph=graph) as session:
        fed = v1.placeholder(tf.float32, [], name="x")
        kept = v1.get_variable("kept", initializer=10.0, use_resource=False)
        total = tf.identity(v1.assign_add(kept, fed), name="total")
        session.run(v1.global_variables_initializer())
        expected = [{"total": session.run(total, {fed: call["x"]})} for call in calls]
    create_tensorflow_neuropod(
        neuropod_path=tmp_path / "m",
        model_name="m",
        graph_def=graph,
        node_name_mapping={"x": "x", "total": "total:0"},
        init_op_names=["init"],
        problem=problem,
    )

    found = largest_difference(tmp_path / "m", calls, expected, tmp_path)

    assert found == 0
    shows = "a graph of TF1 that adds up, its variable set by an init op (frozen graph)"
    zoo_row(framework="TensorFlow", model="tf1_total", shows=shows, platform="tensorflow", difference=found)
