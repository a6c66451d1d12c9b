"""Optimized graphs that are kept from one load to the next."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from neuropod_core import LoadOptions, ModelLoadError, OptionError, Problem
from neuropod_onnx.plugin import OnnxBackend

FLOAT = TensorProto.FLOAT
X, Y = {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"}
ROWS = np.random.default_rng(5).random((3, 64), np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def answer(opened: Any, build: Any, folder: Path) -> Any:
    """Open the small model (or another), run it, and give the bytes of its answer: ``answer(**options)``."""

    def of(model: Any = None, **options: Any) -> bytes:
        executor = opened(model or build.mlp(), X, Y, **{"optimized_models": str(folder), **options})
        result: bytes = executor.infer({"x": ROWS})["y"].tobytes()
        return result

    return of


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in folder.glob("*.onnx")}


def test_the_second_load_takes_what_the_first_kept(answer: Any, folder: Path) -> None:
    plain = answer(optimized_models=False)
    first = answer()
    kept = _files(folder)
    (path,) = folder.glob("*.onnx")
    operators = [node.op_type for node in onnx.load(path).graph.node]

    assert (first, answer()) == (plain, plain)
    assert _files(folder) == kept
    assert operators == ["FusedGemm", "Gemm"]  # As optimized: without the identity, the activation fused.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list((folder / "writing").iterdir()) == []


def test_what_is_kept_is_what_runs(answer: Any, folder: Path) -> None:
    answer()
    (path,) = folder.glob("*.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    path.write_bytes(model.SerializeToString())

    assert answer() != answer(optimized_models=False)


def test_what_the_graph_depends_on_has_a_file_each(answer: Any, build: Any, folder: Path) -> None:
    other = build.mlp()
    other.graph.doc_string = "another file"
    for given in ({}, {"graph_optimization_level": "basic"}, {"intra_op_threads": 1}, {"free_dimensions": {"N": 3}}):
        answer(**given)
    answer(other)

    assert len(_files(folder)) == 5


@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbage"])
def test_a_damaged_file_is_made_anew(answer: Any, folder: Path, damage: str) -> None:
    expected = answer()
    before = _files(folder)
    (path,) = folder.glob("*.onnx")
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-1], "emptied": b"", "garbage": b"\xff" * len(content)}[damage])

    assert answer() == expected
    assert {name: size for name, (_, size) in _files(folder).items()} == {
        name: size for name, (_, size) in before.items()
    }
    assert path.read_bytes() == content


def test_many_loads_at_once_keep_one_file(build: Any, folder: Path, tmp_path: Path) -> None:
    variant = build.variant(tmp_path / "model", build.mlp(), Problem.of(X, Y))

    def answer(_: int) -> bytes:
        executor = OnnxBackend().load(variant, LoadOptions("cpu", {"optimized_models": str(folder)}))
        try:
            return bytes(executor.infer({"x": ROWS})["y"].tobytes())
        finally:
            executor.close()

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(answer, range(24)))

    assert len(answers) == 1
    assert len(_files(folder)) == 1
    assert list((folder / "writing").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from neuropod_core import LoadOptions, Problem, Variant
from neuropod_onnx._kept import KeptModel
from neuropod_onnx.plugin import OnnxBackend
KeptModel._publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
problem = Problem.of({"x": "float32[N, 64]"}, {"y": "float32[N, 10]"})
OnnxBackend().load(Variant("onnx", Path(sys.argv[1]), problem), LoadOptions("cpu", {"optimized_models": sys.argv[2]}))
"""


def test_a_killed_writer_leaves_nothing_that_counts(answer: Any, build: Any, folder: Path, tmp_path: Path) -> None:
    variant = build.variant(tmp_path / "killed", build.mlp(), Problem.of(X, Y))
    done = subprocess.run([sys.executable, "-c", KILLED, str(variant.folder), str(folder)], check=False)
    (partial,) = (folder / "writing").iterdir()

    assert done.returncode == -signal.SIGKILL
    assert _files(folder) == {}
    answer()
    assert len(_files(folder)) == 1
    assert partial.exists()  # It might still be written to.
    os.utime(partial, (0, 0))
    answer(graph_optimization_level="basic")
    assert not partial.exists()


def test_where_nothing_can_be_written_the_model_runs_all_the_same(answer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    assert answer(optimized_models=str(tmp_path / "file" / "below")) == answer(optimized_models=False)


def test_a_folder_that_others_write_to_is_refused(answer: Any, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(OptionError, match="others can write to .*kept', and a graph that lies there is run"):
        answer()
    folder.chmod(0o755)
    answer()

    assert len(_files(folder)) == 1


def test_errors_are_those_of_the_model(opened: Any, build: Any, folder: Path) -> None:
    unknown = build.model([build.node("NoSuchOperator", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    with pytest.raises(ModelLoadError, match="NoSuchOperator.*at model.onnx"):
        opened(unknown, {"x": "float32[N]"}, {"y": "float32[N]"}, optimized_models=str(folder))

    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_models_with_external_data_are_not_kept(build: Any, folder: Path, tmp_path: Path) -> None:
    variant = build.variant(tmp_path / "external", build.mlp(), Problem.of(X, Y))
    onnx.save_model(
        build.mlp(), variant.artefact("data/model.onnx"), save_as_external_data=True, location="w", size_threshold=0
    )
    executor = OnnxBackend().load(variant, LoadOptions("cpu", {"optimized_models": str(folder)}))

    assert executor.infer({"x": ROWS})["y"].shape == (3, 10)
    assert not folder.exists()
    executor.close()


def test_true_is_the_folder_of_neuropods_cache(answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    answer(optimized_models=True)
    monkeypatch.delenv("NEUROPOD_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    answer(optimized_models=True)

    assert len(_files(tmp_path / "cache" / "onnx")) == len(_files(tmp_path / "home" / "neuropod" / "onnx")) == 1


@pytest.mark.parametrize("value", [1, "", None, ["a"]], ids=repr)
def test_other_values_are_refused(answer: Any, value: object) -> None:
    with pytest.raises(OptionError, match="optimized_models"):
        answer(optimized_models=value)
