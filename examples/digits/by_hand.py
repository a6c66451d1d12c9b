"""Each framework as one calls it without neuropod."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from sklearn.linear_model import LogisticRegression

from compare import Scores
from neuropod_core import Array
from train import DigitNet

__all__ = ["keras_scores", "onnx_scores", "regression_scores", "torch_scores"]


def torch_scores(model: DigitNet) -> Scores:
    """Call the module."""

    def scores(images: Array) -> Array:
        with torch.inference_mode():
            result: Array = model(torch.from_numpy(images))["scores"].numpy()
        return result

    return scores


def keras_scores(model: Any) -> Scores:
    """Call the model; its method `predict` is made for large batches and takes longer."""

    def scores(images: Array) -> Array:
        result: Array = model(images, training=False).numpy()
        return result

    return scores


def onnx_scores(model: ModelProto) -> Scores:
    """Run a session of ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def scores(images: Array) -> Array:
        result: Array = session.run(["scores"], {"image": images})[0]
        return result

    return scores


def regression_scores(model: LogisticRegression) -> Scores:
    """Ask scikit-learn."""

    def scores(images: Array) -> Array:
        result: Array = model.predict_proba(images.reshape(len(images), -1)).astype(np.float32)
        return result

    return scores
