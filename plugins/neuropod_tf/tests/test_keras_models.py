"""Keras models in every shape that they are written in, packaged as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from neuropod_core import Neuropod, PackagingError, Problem, load_neuropod
from neuropod_tf import create_keras_neuropod

Packaged = Callable[..., Any]
RNG = np.random.default_rng(3)


@pytest.fixture
def packaged(tmp_path: Path) -> Packaged:
    """Package a model and open the package."""

    @contextmanager
    def opened(model: Any, **arguments: Any) -> Iterator[Neuropod]:
        path = tmp_path / "model.neuropod"
        create_keras_neuropod(neuropod_path=path, model_name="keras", model=model, **arguments)
        with load_neuropod(path, cache_dir=tmp_path / "cache") as package:
            yield package

    return opened


def _normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


class Sum(keras.Model):
    """A subclassed model of two inputs; how they come is for those below to say."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def summed(self, u: Any, v: Any) -> Any:
        return self.dense(u) + v


class OfArguments(Sum):
    """Takes one argument for each input."""

    def call(self, u: Any, v: Any) -> dict[str, Any]:
        return {"sum": self.summed(u, v)}


class OfDictionary(Sum):
    """Takes a dictionary."""

    def call(self, inputs: Any) -> dict[str, Any]:
        return {"sum": self.summed(inputs["u"], inputs["v"])}


class OfList(Sum):
    """Takes a list, and gives no name."""

    def call(self, inputs: Any) -> Any:
        u, v = inputs
        return self.summed(u, v)


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        (OfArguments, lambda u, v: (u, v)),
        (OfDictionary, lambda u, v: ({"u": u, "v": v},)),
        (OfList, lambda u, v: ([u, v],)),
    ],
    ids=["arguments", "dictionary", "list"],
)
def test_subclassed_models_take_their_inputs_in_any_way(packaged: Packaged, kind: Any, pack: Any) -> None:
    model, u, v = kind(), _normal(2, 3), _normal(2, 2)
    expected = model(*pack(u, v))
    expected = (expected["sum"] if isinstance(expected, dict) else expected).numpy()
    problem = Problem.of({"u": "float32[N, 3]", "v": "float32[N, 2]"}, {"sum": "float32[N, 2]"})

    with packaged(model, problem=problem) as package:
        np.testing.assert_allclose(package.infer({"u": u, "v": v})["sum"], expected, rtol=1e-6)


def test_a_dictionary_is_filled_by_the_models_own_names(packaged: Packaged) -> None:
    model, u, v = OfDictionary(), _normal(2, 3), _normal(2, 2)
    expected = model({"u": u, "v": v})["sum"].numpy()
    problem = Problem.of({"left": "float32[N, 3]", "right": "float32[N, 2]"}, {"sum": "float32[N, 2]"})

    with packaged(model, problem=problem, node_name_mapping={"left": "u", "right": "v"}) as package:
        np.testing.assert_allclose(package.infer({"left": u, "right": v})["sum"], expected, rtol=1e-6)


class OfOne(Sum):
    """Takes one input under a name of its own."""

    def call(self, image: Any, training: bool = False) -> dict[str, Any]:
        del training
        return {"dense": self.dense(image), "same": image}


def test_the_problem_of_a_subclassed_model_is_known_after_a_call(packaged: Packaged) -> None:
    model, image = OfOne(), _normal(2, 3)
    expected = model(image)["dense"].numpy()

    with packaged(model) as package:
        assert str(package.problem) == (
            "(image: float32[batch_size, 3]) -> (same: float32[batch_size, 3], dense: float32[batch_size, 2])"
        )
        np.testing.assert_allclose(package.infer({"image": image})["dense"], expected, rtol=1e-6)


def test_the_problem_of_a_model_of_several_arguments_is_asked_for(packaged: Packaged) -> None:
    model = OfArguments()
    model(_normal(2, 3), _normal(2, 2))

    with pytest.raises(PackagingError, match="does not know its inputs and outputs; pass problem"), packaged(model):
        pass


def test_inputs_that_came_in_a_dictionary_are_numbered(packaged: Packaged) -> None:
    model, u, v = OfDictionary(), _normal(2, 3), _normal(2, 2)
    expected = model({"u": u, "v": v})["sum"].numpy()

    with packaged(model) as package:
        first, second = (spec.name for spec in package.inputs)
        np.testing.assert_allclose(package.infer({first: u, second: v})["sum"], expected, rtol=1e-6)


@pytest.mark.parametrize("how", ["called", "fitted"])
def test_a_sequential_model_without_an_input_takes_any_batch(packaged: Packaged, how: str) -> None:
    model = keras.Sequential([keras.layers.Dense(2, name="scores")])
    if how == "fitted":
        model.compile(loss="mse")
        model.fit(_normal(64, 3), _normal(64, 2), verbose=0)
    x = _normal(5, 3)
    expected = model(x).numpy()

    with packaged(model) as package:
        (spec,) = package.inputs
        assert spec.shape == ("batch_size", 3)
        np.testing.assert_allclose(package.infer({spec.name: x})["scores"], expected, rtol=1e-6)


def test_a_model_that_was_never_called_is_refused_with_the_remedy(packaged: Packaged) -> None:
    with (
        pytest.raises(PackagingError, match="does not know its inputs and outputs; call it once"),
        packaged(keras.Sequential([keras.layers.Dense(2)])),
    ):
        pass


def test_nested_inputs_and_outputs_are_called_as_their_tensors(packaged: Packaged) -> None:
    a, b, c = (keras.Input((4,), name=name) for name in "abc")
    double = keras.layers.Rescaling(2.0, name="double")(a)
    total = keras.layers.Add(name="total")([a, b, c])
    model = keras.Model({"pair": {"a": a, "b": b}, "c": c}, {"first": {"double": double}, "second": [total]})
    given = {name: _normal(2, 4) for name in "abc"}

    with packaged(model) as package:
        results = package.infer(given)
        np.testing.assert_allclose(results["double"], given["a"] * 2, rtol=1e-6)
        np.testing.assert_allclose(results["total"], given["a"] + given["b"] + given["c"], rtol=1e-5)


def test_an_input_that_is_an_output_too_is_numbered(packaged: Packaged) -> None:
    x = keras.Input((4,), name="x")
    given = _normal(2, 4)

    with packaged(keras.Model(x, [x, keras.layers.ReLU(name="y")(x)])) as package:
        results = package.infer({"x": given})
        np.testing.assert_array_equal(results["output_0"], given)
        np.testing.assert_array_equal(results["output_1"], np.maximum(given, 0))


def test_a_model_that_remembers_keeps_its_batch_and_its_state(packaged: Packaged) -> None:
    x = keras.Input((3, 2), name="x", batch_size=1)
    model = keras.Model(x, keras.layers.LSTM(2, stateful=True, name="state")(x))
    given = _normal(1, 3, 2)

    with packaged(model) as package:
        assert str(package.problem) == "(x: float32[1, 3, 2]) -> (state: float32[1, 2])"
        for _ in range(3):
            np.testing.assert_allclose(package.infer({"x": given})["state"], model(given).numpy(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, while it quantises.
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`:UserWarning")
@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float64", "int8"])
def test_precisions_are_kept(packaged: Packaged, policy: str) -> None:
    pytest.importorskip("ml_dtypes")
    of_input = "float32" if policy.startswith(("mixed", "int8")) else policy
    x = keras.Input((8,), name="x", dtype=of_input)
    made_by = {} if policy == "int8" else {"dtype": policy}
    model = keras.Model(x, keras.layers.Dense(3, name="y", **made_by)(x))
    if policy == "int8":
        model.quantize("int8")
    given = keras.ops.convert_to_tensor(_normal(2, 8), dtype=of_input).numpy()
    expected = model(given).numpy()

    with packaged(model) as package:
        results = package.infer({"x": given})["y"]
        assert results.dtype == expected.dtype
        np.testing.assert_allclose(results.astype(np.float32), expected.astype(np.float32), rtol=1e-2, atol=1e-2)
