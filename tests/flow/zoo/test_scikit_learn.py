"""scikit-learn models: in a Python package by joblib, and converted to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skl2onnx
import zoo_scikit
from skl2onnx.common.data_types import FloatTensorType
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from zoo_specimen import MODELS, Run, Specimen, Write, renamed

from neuropod_core import Problem
from neuropod_core.packagers import create_onnx_neuropod, create_python_neuropod

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(120, 4)).astype(np.float32)
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(np.int64) + (ROWS[:, 2] > 1)
FEEDS = tuple({"x": RANDOM.normal(size=(rows, 4)).astype(np.float32)} for rows in (5, 1, 40))

NO_EXPORT = "scikit-learn exports nothing that this one reads"
ELSEWHERE = ("torchscript", "torch_export", "torch_aoti", "tensorflow")


def by_hand(model: Any) -> Run:
    call = zoo_scikit.called(model)
    return lambda feed: call(**feed)


def as_onnx(model: Any, problem: Problem, path: Path) -> None:
    converted = skl2onnx.convert_sklearn(
        model,
        initial_types=[("x", FloatTensorType([None, 4]))],
        options={"zipmap": False} if hasattr(model, "predict_proba") else None,
    )
    create_onnx_neuropod(neuropod_path=path, model_name="zoo", problem=problem, model=renamed(converted, problem))


def as_python(model: Any, problem: Problem, path: Path) -> None:
    held = path.with_suffix(".joblib")
    joblib.dump(model, held)
    create_python_neuropod(
        neuropod_path=path,
        model_name="zoo",
        problem=problem,
        entrypoint_package="zoo_scikit",
        entrypoint="load",
        code_path_spec=[{"python_root": MODELS, "dirs_to_package": ["zoo_scikit.py"]}],
        data_paths=[{"path": held, "packaged_name": "model.joblib"}],
    )


def specimen(name: str, shows: str, model: Any, outputs: Mapping[str, str], **more: Any) -> Specimen:
    problem = Problem.of({"x": "float32[N, 4]"}, outputs, name=f"zoo_{name}")
    writers: dict[str, Write] = {
        "onnx": partial(as_onnx, model, problem),
        "python": partial(as_python, model, problem),
    }
    cannot = {**dict.fromkeys(ELSEWHERE, NO_EXPORT), **more.pop("cannot", {})}
    return Specimen(
        "scikit-learn", name, shows, problem, FEEDS, partial(by_hand, model), writers, cannot, tolerance=1e-4, **more
    )


SPECIMENS = [
    specimen(
        "logistic",
        "logistic regression with three classes",
        LogisticRegression().fit(ROWS, LABELS),
        {"label": "int64[N]", "chances": "float32[N, 3]"},
    ),
    specimen(
        "forest",
        "ten trees",
        RandomForestClassifier(10, random_state=0).fit(ROWS, LABELS),
        {"label": "int64[N]", "chances": "float32[N, 3]"},
    ),
    specimen(
        "pipeline",
        "scaled features, their products, ridge regression",
        make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge()).fit(ROWS, ROWS[:, 0] * ROWS[:, 1]),
        {"value": "float32[N, 1]"},
    ),
    specimen(
        "clusters",
        "k means",
        KMeans(3, random_state=0, n_init=2).fit(ROWS),
        {"label": "int64[N]", "distances": "float32[N, 3]"},
    ),
]


@pytest.mark.parametrize(("specimen", "platform"), [case for one in SPECIMENS for case in one.cases()])
def test_package_agrees_with_the_estimator(
    specimen: Specimen, platform: str, agree: Callable[[Specimen, str], None]
) -> None:
    agree(specimen, platform)
