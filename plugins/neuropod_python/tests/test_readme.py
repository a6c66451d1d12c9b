"""The examples of the README run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

_README = Path(__file__).parents[1] / "README.md"
_SOFTMAX = """
import numpy as np


def softmax(x):
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
"""


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, use = re.findall(r"```python\n(.*?)```", _README.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    Path("digits").mkdir()
    Path("digits/entry.py").write_text(entry)
    Path("digits/layers.py").write_text(_SOFTMAX)
    np.save("weights.npy", np.zeros((64, 10), np.float32))
    names = {"images": np.ones((3, 8, 8), np.float32)}

    exec(use, names)  # noqa: S102 - what a reader would run

    np.testing.assert_allclose(names["scores"], np.full((3, 10), 0.1))
