"""The conformance suite of this backend, on trees: none of its standard models is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xgboost

from neuropod_core import Problem
from neuropod_core.testing import BackendTests, Sample, StandardModel
from neuropod_xgboost.trees import create_xgboost_neuropod

FEATURES = np.random.default_rng(5).normal(size=(30, 4)).astype(np.float32)
PROBLEM = Problem.of(
    {"features": "float32[N, F]"},
    {"chance": "float32[N]", "margin": "float32[N, 1]", "leaves": "float32[N, T]"},
)


class TestXGBoost(BackendTests):
    """The suite that every backend passes."""

    platform = "xgboost"
    not_expressible = dict.fromkeys(StandardModel, "trees give one of a few values for a row of features")

    @pytest.fixture
    def sample(self) -> Sample:
        """Give a small ensemble of trees, and what it must answer."""
        settings = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
        booster = xgboost.train(settings, xgboost.DMatrix(FEATURES, FEATURES[:, 0] > FEATURES[:, 1]), 5)
        table = xgboost.DMatrix(FEATURES)
        margin = booster.predict(table, output_margin=True).reshape(-1, 1)
        expected = {
            "chance": booster.predict(table),
            "margin": margin,
            "leaves": booster.predict(table, pred_leaf=True),
        }

        def write(path: Path) -> None:
            create_xgboost_neuropod(
                neuropod_path=path,
                model_name="trees",
                model=booster,
                outputs={"margin": "margin", "leaves": "leaf"},
                problem=PROBLEM,
            )

        return Sample(write, {"features": FEATURES}, expected, failing={"features": FEATURES[:, :3]})
