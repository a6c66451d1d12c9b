"""Four small classifiers, each in its framework's own manner; a second or two of training each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import keras
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from scans import SEED, Scans

__all__ = ["DigitNet", "train_keras", "train_regression", "train_sklearn_mlp", "train_torch"]

FULL_INK = 16.0
EPOCHS = 30
BATCH = 64


class DigitNet(nn.Module):
    """Three dense layers."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (64, 64, 32, 10)
        dense = [layer for wide, narrow in pairwise(sizes) for layer in (nn.Linear(wide, narrow), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), *dense[:-1])

    def logits(self, image: Tensor) -> Tensor:
        """Give what the loss wants: scores before they become probabilities."""
        scores: Tensor = self.layers(image.to(torch.float32) / 16.0)
        return scores

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Give the outputs of the problem by name."""
        return {"scores": torch.softmax(self.logits(image), dim=1)}


def train_torch(scans: Scans) -> DigitNet:
    """Train with PyTorch."""
    torch.manual_seed(SEED)
    images, digits = torch.from_numpy(scans.images), torch.from_numpy(scans.digits)
    model = DigitNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with _one_thread():
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(images)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model.logits(images[rows]), digits[rows]).backward()
                optimizer.step()
    model.eval()
    return model


@contextmanager
def _one_thread() -> Iterator[None]:
    """Spare small tensors the threads, which wait for each other longer than they work on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_keras(scans: Scans) -> Any:
    """Train with Keras."""
    keras.utils.set_random_seed(SEED)
    image = keras.Input((8, 8), dtype="uint8", name="image")
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / FULL_INK)(image))
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    scores = keras.layers.Dense(10, activation="softmax", name="scores")(hidden)
    model = keras.Model(image, scores)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(scans.images, scans.digits, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def train_sklearn_mlp(scans: Scans) -> MLPClassifier:
    """Train a network with scikit-learn."""
    model = MLPClassifier((64,), early_stopping=True, random_state=SEED)
    model.fit(scans.images.reshape(-1, 64) / FULL_INK, scans.digits)
    return model


def train_regression(scans: Scans) -> LogisticRegression:
    """Train a logistic regression with scikit-learn."""
    model = LogisticRegression(C=0.01, tol=0.01)
    model.fit(scans.images.reshape(-1, 64), scans.digits)
    return model
