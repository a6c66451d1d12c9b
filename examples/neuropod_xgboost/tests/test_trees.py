"""What is XGBoost's own: which files and estimators are taken, what comes out, and which trees are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from neuropod_core import Array, InferenceError, ModelLoadError, NeuropodError, Problem, load_neuropod
from neuropod_xgboost.trees import create_xgboost_neuropod, open_trees

CLASSES = Problem.of({"features": "float32[N, 4]"}, {"scores": "float32[N, 3]", "leaves": "float32[N, T]"})
RANDOM = np.random.default_rng(3)
FEATURES = RANDOM.normal(size=(120, 4)).astype(np.float32)
LABELS = (FEATURES[:, 0] + FEATURES[:, 1] > 0).astype(int) + (FEATURES[:, 2] > 0)


def trained(objective: str = "multi:softprob", **parameters: Any) -> xgboost.Booster:
    many = {"num_class": 3} if objective.startswith("multi") else {}
    labels = LABELS if many else LABELS > 0
    settings = {"objective": objective, "nthread": 1, **many, **(parameters or {"max_depth": 3})}
    return xgboost.train(settings, xgboost.DMatrix(FEATURES, labels), 4)


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    return trained()


def packaged(path: Path, model: Any, problem: Problem = CLASSES, **arguments: Any) -> Path:
    if "leaves" in {spec.name for spec in problem.outputs}:
        arguments.setdefault("outputs", {"leaves": "leaf"})
    create_xgboost_neuropod(
        neuropod_path=path,
        model_name="trees",
        model=model,
        problem=problem,
        neuropod_load_args={"trust": "data"},
        **arguments,
    )
    return path


def predicted(path: Path, **inputs: Array) -> dict[str, Array]:
    with load_neuropod(path, trust="data", options={"threads": 1}) as model:
        return model.infer(inputs)


def test_results_are_those_of_the_booster(booster: xgboost.Booster, tmp_path: Path) -> None:
    results = predicted(packaged(tmp_path / "m.neuropod", booster), features=FEATURES)

    table = xgboost.DMatrix(FEATURES)
    np.testing.assert_array_equal(results["scores"], booster.predict(table))
    np.testing.assert_array_equal(results["leaves"], booster.predict(table, pred_leaf=True))


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
def test_model_files_are_taken(suffix: str, booster: xgboost.Booster, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    booster.save_model(file)

    results = predicted(packaged(tmp_path / "m.neuropod", file), features=FEATURES)

    np.testing.assert_array_equal(results["scores"], booster.inplace_predict(FEATURES))


def test_an_output_of_one_dimension_is_one_number_for_each_row(tmp_path: Path) -> None:
    model = trained("binary:logistic")
    problem = Problem.of(
        {"features": "float32[N, 4]"}, {"chance": "float32[N]", "column": "float32[N, 1]", "sum": "float32[N]"}
    )
    path = packaged(tmp_path / "m.neuropod", model, problem, outputs={"sum": "margin"})

    results = predicted(path, features=FEATURES)

    np.testing.assert_array_equal(results["chance"], model.inplace_predict(FEATURES))
    np.testing.assert_array_equal(results["column"][:, 0], results["chance"])
    np.testing.assert_allclose(results["chance"], 1 / (1 + np.exp(-results["sum"])), rtol=1e-5)


def test_inputs_are_columns_in_the_order_of_the_problem(booster: xgboost.Booster, tmp_path: Path) -> None:
    columns = Problem.of({"b": "float32[N]", "a": "float32[N, 2]", "c": "float32[N]"}, {"scores": "float32[N, 3]"})
    path = packaged(tmp_path / "m.neuropod", booster, columns)

    results = predicted(path, a=FEATURES[:, 1:3], b=FEATURES[:, 0], c=FEATURES[:, 3])

    np.testing.assert_array_equal(results["scores"], booster.inplace_predict(FEATURES))


def test_an_empty_table_gives_empty_results_of_the_right_width(booster: xgboost.Booster, tmp_path: Path) -> None:
    results = predicted(packaged(tmp_path / "m.neuropod", booster), features=FEATURES[:0])

    assert {name: array.shape for name, array in results.items()} == {"scores": (0, 3), "leaves": (0, 12)}


def test_nan_is_a_missing_value(booster: xgboost.Booster, tmp_path: Path) -> None:
    holes = np.where(RANDOM.random(FEATURES.shape) < 0.3, np.nan, FEATURES).astype(np.float32)

    results = predicted(packaged(tmp_path / "m.neuropod", booster), features=holes)

    np.testing.assert_array_equal(results["scores"], booster.predict(xgboost.DMatrix(holes)))


def test_a_table_of_another_width_is_an_error_of_the_call(booster: xgboost.Booster, tmp_path: Path) -> None:
    problem = Problem.of({"features": "float32[N, F]"}, {"scores": "float32[N, 3]"})

    with pytest.raises(InferenceError, match="expected: 4, got 3"):
        predicted(packaged(tmp_path / "m.neuropod", booster, problem), features=FEATURES[:, :3])


def test_an_estimator_that_stopped_early_is_packaged_with_its_best_trees(tmp_path: Path) -> None:
    estimator = xgboost.XGBRegressor(n_estimators=40, early_stopping_rounds=2, learning_rate=0.9, n_jobs=1)
    noise = RANDOM.normal(size=120)
    estimator.fit(FEATURES[:60], noise[:60], eval_set=[(FEATURES[60:], noise[60:])], verbose=False)
    problem = Problem.of({"features": "float32[N, 4]"}, {"y": "float32[N]"})

    results = predicted(packaged(tmp_path / "m.neuropod", estimator, problem), features=FEATURES)

    assert estimator.best_iteration + 1 < estimator.get_booster().num_boosted_rounds()
    np.testing.assert_array_equal(results["y"], estimator.predict(FEATURES))


def test_dart_is_taken(tmp_path: Path) -> None:
    model = trained(booster="dart", rate_drop=0.5, seed=1)

    results = predicted(packaged(tmp_path / "m.neuropod", model), features=FEATURES)

    np.testing.assert_array_equal(results["scores"], model.inplace_predict(FEATURES))


def test_an_unknown_kind_of_output_is_refused(booster: xgboost.Booster, tmp_path: Path) -> None:
    with pytest.raises(NeuropodError, match="'value', 'margin' or 'leaf'"):
        packaged(tmp_path / "m.neuropod", booster, outputs={"scores": "contributions"})


# -- trees of strangers


def set_item(key: str, index: int, value: Any) -> Callable[[Any], None]:
    return lambda model: model["trees"][0][key].__setitem__(index, value)


def set_size(key: str, value: str) -> Callable[[Any], None]:
    return lambda model: model["trees"][0]["tree_param"].__setitem__(key, value)


# With most of them XGBoost 3.2 ends the process, or reads memory that is not the model's.
WRONG = {
    "circle": (set_item("left_children", 1, 0), "children that exist"),
    "two parents": (set_item("left_children", 0, 2), "one parent for each node"),
    "child beyond the end": (set_item("left_children", 0, 10**6), "children that exist"),
    "negative child": (set_item("right_children", 0, -5), "children that exist"),
    "stranger as parent": (set_item("parents", 1, 5), "parents that know their children"),
    "feature beyond the end": (set_item("split_indices", 0, 10**6), "features that exist"),
    "category": (set_item("split_type", 0, 1), "numerical splits"),
    "short list": (lambda model: model["trees"][0]["parents"].pop(), "one entry for each node"),
    "leaves of many values": (set_size("size_leaf_vector", "1000000000"), "one value in each leaf"),
    "ids in another order": (lambda model: model["trees"][0].update(id=1), "ids in their order"),
    "group beyond the end": (lambda model: model["tree_info"].__setitem__(0, 50), "groups that exist"),
    "tree without a group": (lambda model: model["tree_info"].pop(), "a group each"),
    "round beyond the end": (lambda model: model["iteration_indptr"].append(10**6), "rounds that follow"),
}


@pytest.mark.parametrize("name", WRONG)
def test_trees_that_xgboost_would_follow_blindly_are_refused(
    name: str, booster: xgboost.Booster, tmp_path: Path
) -> None:
    document = json.loads(bytes(booster.save_raw("json")))
    spoil, message = WRONG[name]
    spoil(document["learner"]["gradient_booster"]["model"])
    file = tmp_path / "model.json"
    file.write_text(json.dumps(document))

    with pytest.raises(ModelLoadError, match=message):
        open_trees(file, threads=1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"learner": {}}', "[" * 100_000, "\x93not a model\n"])
def test_a_file_that_is_no_model_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(content)

    with pytest.raises(ModelLoadError, match="no model that XGBoost can run") as raised:
        open_trees(file, threads=1)

    assert "\n" not in str(raised.value)


def test_a_linear_booster_has_no_trees(tmp_path: Path) -> None:
    with pytest.raises(NeuropodError, match="no model that XGBoost can run"):
        packaged(tmp_path / "m.neuropod", trained(booster="gblinear"))
