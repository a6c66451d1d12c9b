"""How a scikit-learn model of the zoo is opened in a Python package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np


def load(data_path: str) -> Callable[..., dict[str, Any]]:
    """Open ``model.joblib``: a pickle, so a package that has one needs ``trust="code"`` like any Python package."""
    return called(joblib.load(Path(data_path) / "model.joblib"))


def called(model: Any) -> Callable[..., dict[str, Any]]:
    """Give what a model predicts in the types that are usual for it: classes as int64, all else as float32."""
    if hasattr(model, "predict_proba"):
        return lambda x: {
            "label": model.predict(x).astype(np.int64),
            "chances": model.predict_proba(x).astype(np.float32),
        }
    if hasattr(model, "cluster_centers_"):
        return lambda x: {"label": model.predict(x).astype(np.int64), "distances": model.transform(x)}
    return lambda x: {"value": model.predict(x).astype(np.float32).reshape(-1, 1)}
