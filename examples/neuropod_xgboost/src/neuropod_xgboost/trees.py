"""Packages trees, opens them and runs them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from neuropod_core import Array, Executor, ModelLoadError, Names, PackageFormatError, Problem, Tensors, TensorSpec
from neuropod_core.packaging import new_package

__all__ = ["TreesExecutor", "create_xgboost_neuropod", "open_trees"]


def create_xgboost_neuropod(*, model: Any, outputs: Mapping[str, str] | None = None, **arguments: Any) -> None:
    """Package a ``Booster``, a fitted estimator of XGBoost, or a model file (JSON or UBJSON) by its path.

    `outputs` names what each output is: ``"value"`` (default), ``"margin"`` or ``"leaf"``; every packager takes the
    other arguments.
    """
    with new_package("xgboost", **arguments) as package:
        (package.folder / "data").mkdir()
        _booster(model).save_model(package.folder / "data" / "model.json")
        (package.folder / "config.json").write_text(json.dumps({"outputs": dict(outputs or {})}), "utf-8")


def _booster(model: Any) -> Any:
    if isinstance(model, str | Path):
        return xgboost.Booster(model_file=model)
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    best = booster.attr("best_iteration")  # Where training stopped early, an estimator predicts with the best trees.
    return booster[: int(best) + 1] if best and booster is not model else booster


class TreesExecutor(Executor):
    """One booster; each input is a column of its features, or several."""

    def __init__(self, booster: Any, problem: Problem, kinds: Mapping[str, str]) -> None:
        self._booster, self._inputs, self._outputs, self._kinds = booster, problem.inputs, problem.outputs, kinds
        if not set(kinds.values()) <= {"value", "margin", "leaf"}:
            raise PackageFormatError(f"an output is 'value', 'margin' or 'leaf', not {kinds}", at="0/config.json")

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the trees on each row; the core wraps what XGBoost raises."""
        table = np.column_stack([inputs[spec.name] for spec in self._inputs])
        # For no rows XGBoost gives a result without columns, so there is always one.
        rows = table if len(table) else np.full((1, table.shape[1]), np.nan, np.float32)
        asked = [spec for spec in self._outputs if outputs is None or spec.name in outputs]
        return {spec.name: self._run(spec, rows)[: len(table)] for spec in asked}

    def close(self) -> None:
        """Free the trees."""
        del self._booster

    def _run(self, spec: TensorSpec, rows: Array) -> Array:
        kind = self._kinds.get(spec.name, "value")
        if kind == "leaf":
            leaves: Array = self._booster.predict(xgboost.DMatrix(rows), pred_leaf=True)
            return leaves
        made: Array = self._booster.inplace_predict(rows, predict_type=kind, strict_shape=True)
        return made[:, 0] if len(spec.shape) == 1 and made.shape[1] == 1 else made


def open_trees(path: Path, threads: int | None) -> Any:
    """Open a model after a look at its trees, whose links XGBoost follows blindly."""
    try:
        model = json.loads(path.read_bytes())
        _check(model["learner"])
        # XGBoost gets what was checked, and not the file: its parser may read that in another way.
        return xgboost.Booster({"nthread": threads}, model_file=bytearray(json.dumps(model), "utf-8"))
    except Exception as error:  # What a wrong file may raise on its way is no closed list.
        what = f"{type(error).__name__}: {error}".partition("\n")[0]  # XGBoost adds a trace of the stack.
        raise ModelLoadError(f"no model that XGBoost can run: {what}", at=path.name) from error


def _check(learner: Mapping[str, Any]) -> None:
    sizes, booster = learner["learner_model_param"], learner["gradient_booster"]
    model = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]
    groups, owners = max(1, int(sizes["num_class"]), int(sizes["num_target"])), np.array(model["tree_info"])
    rounds = [0, *model.get("iteration_indptr", [len(owners)]), len(owners)]
    _demand(groups <= len(owners) == len(model["trees"]) == len(booster.get("weight_drop", owners)), "a group each")
    _demand(((owners >= 0) & (owners < groups)).all(), "groups that exist")
    _demand((np.diff(rounds) >= 0).all(), "rounds that follow one another")
    _demand([tree["id"] for tree in model["trees"]] == list(range(len(owners))), "ids in their order")
    for tree in model["trees"]:
        _check_tree(tree, int(sizes["num_feature"]))


def _check_tree(tree: Mapping[str, Any], features: int) -> None:
    keys = ("left_children", "right_children", "parents", "split_indices")
    left, right, parents, used = arrays = [np.array(tree[key]) for key in keys]
    count, inner = int(tree["tree_param"]["num_nodes"]), np.flatnonzero(left != -1)
    children = np.concatenate([left[inner], right[inner]])
    _demand({len(array) for array in arrays} == {count}, "one entry for each node")
    _demand(int(tree["tree_param"]["size_leaf_vector"]) in {0, 1}, "one value in each leaf")
    _demand(not any(tree["split_type"]), "numerical splits, no categories")
    _demand(((used >= 0) & (used < features)).all(), "features that exist")
    _demand(((children > 0) & (children < count)).all(), "children that exist")
    _demand(len(np.unique(children)) == len(children), "one parent for each node")
    _demand((parents[children] == np.tile(inner, 2)).all(), "parents that know their children")


def _demand(sound: object, what: str) -> None:
    if not sound:
        raise ValueError(f"its trees need {what}")
