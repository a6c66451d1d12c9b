"""Damaged packages in child processes: an error of ours, or results; never another exception, never silence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from neuropod_core import Problem
from neuropod_core.testing.damage import Report, try_damaged
from neuropod_python import create_python_neuropod

Try = Callable[[str, Iterable[int]], Report]

FILES = ("0/config.json", "0/requirements.lock", "0/pylock.toml", "0/code/entry.py", "0/data/weights.npz")
PYLOCK = f"""lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.10"

[[packages]]
name = "numpy"
version = "{np.__version__}"
sdist = {{ url = "https://files.example/numpy.tar.gz", size = 1, hashes = {{ sha256 = "{"0" * 64}" }} }}
wheels = [
    {{ url = "https://files.example/numpy-py3-none-any.whl", size = 1, hashes = {{ sha256 = "{"1" * 64}" }} }},
]
"""
ENTRY = """
import numpy as np


class Model:
    def __init__(self, weights, offsets):
        self.weights, self.offsets = weights, offsets

    def __call__(self, x):
        return {"y": np.maximum(x @ self.weights + self.offsets, 0)}


def load(data_path):
    with np.load(data_path + "/weights.npz", allow_pickle=False) as held:
        return Model(held["weights"], held["offsets"])
"""


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Damage one file of a package in the ways of some numbers."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "entry.py").write_text(ENTRY)
    np.savez(tmp_path / "weights.npz", weights=np.ones((4, 3), np.float32), offsets=np.zeros(3, np.float32))
    path = tmp_path / "m.neuropod"
    create_python_neuropod(
        neuropod_path=path,
        model_name="m",
        entrypoint="load",
        entrypoint_package="entry",
        code_path_spec=[{"python_root": tmp_path, "dirs_to_package": ["entry.py"]}],
        data_paths=[{"path": tmp_path / "weights.npz", "packaged_name": "weights.npz"}],
        problem=Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 3]"}),
        requirements="numpy",
        hashes=False,
        package_as_zip=False,
        test_input_data={"x": np.ones((2, 4), np.float32)},
    )
    (path / "0" / "pylock.toml").write_text(PYLOCK)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["0/pylock.toml"] = hashlib.sha256(PYLOCK.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    return lambda file, numbers: try_damaged(path, numbers, work=tmp_path, artefact=file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).name)
def test_damaged_files_end_in_our_errors(tries: Try, file: str) -> None:
    report = tries(file, range(40))

    assert report.wrong == []
    assert report.died == []
    assert report.ran == 40


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).name)
def test_files_damaged_in_two_thousand_ways_end_in_our_errors(tries: Try, file: str) -> None:
    report = tries(file, range(1000, 1400))

    assert report.wrong == []
    assert report.died == []
    assert report.ran == 400
