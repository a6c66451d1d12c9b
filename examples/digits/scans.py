"""The digits that scikit-learn brings along: 1797 scans of 43 people's handwriting, 8 x 8 pixels each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__ = ["SEED", "Scans", "split"]

SEED = 1


@dataclass(frozen=True)
class Scans:
    """Scans, ``uint8[N, 8, 8]``, and the digits that they show, ``int64[N]``."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    digits: np.ndarray[Any, np.dtype[np.int64]]


def split() -> tuple[Scans, Scans]:
    """Give the scans to learn from and those held out, the same ones each time."""
    bundled = load_digits()
    images, digits = bundled.images.astype(np.uint8), bundled.target.astype(np.int64)
    seen, held_out, seen_digits, held_out_digits = train_test_split(
        images, digits, test_size=0.25, random_state=SEED, stratify=digits
    )
    return Scans(seen, seen_digits), Scans(held_out, held_out_digits)
