"""Damaged artefacts in child processes: an error of ours, or results; never another exception, never silence."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import Problem
from neuropod_core.testing.damage import Report, try_damaged
from neuropod_tf import create_tensorflow_neuropod

Try = Callable[[str, Iterable[int]], Report]
GRAPH = "0/data/model.pb"
SAVED = "0/data/savedmodel/saved_model.pb"
VARIABLES = "0/data/savedmodel/variables/variables"
FILES = (GRAPH, SAVED, f"{VARIABLES}.index", f"{VARIABLES}.data-00000-of-00001", "0/data/savedmodel/assets/words.txt")
PROBLEM = Problem.of({"x": "float32[N, 4]", "word": "string[N]"}, {"y": "float32[N, 3]", "id": "int64[N]"})
INPUTS = {"x": np.ones((2, 4), np.float32), "word": np.array(["two", "no word"], object)}


class Model(tf.Module):
    """A layer, a convolution and a table: variables, an asset and functions."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        file = folder / "words.txt"
        file.write_text("one\ntwo\nthree\n")
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        initializer = tf.lookup.TextFileInitializer(str(file), tf.string, whole, tf.int64, line)
        self.table = tf.lookup.StaticVocabularyTable(initializer, num_oov_buckets=1)
        self.kernel = tf.Variable(tf.ones([2, 1, 3]))
        self.weight = tf.Variable(tf.ones([4, 3]))

    def __call__(self, x: Any, word: Any) -> dict[str, Any]:
        slid = tf.nn.conv1d(x[:, :, None], self.kernel, 1, "SAME")
        return {"y": tf.nn.softmax(tf.reduce_max(slid, 1) + x @ self.weight), "id": self.table.lookup(word)}


def _graph() -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        word = tf.compat.v1.placeholder(tf.string, [None], name="word")
        slid = tf.nn.conv1d(x[:, :, None], tf.ones([2, 1, 3]), 1, "SAME")
        tf.nn.softmax(tf.reduce_max(slid, 1) + x @ tf.random.stateless_normal([4, 3], [1, 2]), name="y")
        tf.strings.to_hash_bucket_fast(word, 10, name="id")
    return graph


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Damage one file of a package in the ways of some numbers."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))

    def damage(file: str, numbers: Iterable[int]) -> Report:
        path = tmp_path / "m.neuropod"
        source: dict[str, Any] = {"trackable_obj": Model(tmp_path)}
        if file == GRAPH:
            source = {"graph_def": _graph(), "node_name_mapping": {name: name for name in ("x", "word", "y", "id")}}
        create_tensorflow_neuropod(
            neuropod_path=path, model_name="m", problem=PROBLEM, test_input_data=INPUTS, **source
        )
        return try_damaged(path, numbers, work=tmp_path, artefact=file)

    return damage


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).name)
def test_damaged_files_end_in_our_errors(tries: Try, file: str) -> None:
    report = tries(file, range(12))

    assert report.wrong == []
    assert report.ran == 12


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).name)
def test_files_damaged_in_two_thousand_ways_end_in_our_errors(
    tries: Try, file: str, record_property: Callable[[str, object], None]
) -> None:
    report = tries(file, range(1000, 1400))

    record_property("ended", dict(report.ended))
    record_property("died", report.died)
    assert report.wrong == []
    assert report.ran == 400


# -- graphs that are well-formed and wrong


def _mutated(first: int, last: int, limit_s: float = 60.0) -> Counter[str]:
    """Try mutated graphs in child processes; one that dies costs the case that killed it."""
    ended: Counter[str] = Counter()
    while first < last:
        command = [sys.executable, str(Path(__file__).with_name("mutated_graphs.py")), str(first), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            said = _last_words(child.stdout.fileno(), limit_s)
            hung = child.poll() is None and said.endswith(" ")
            child.kill()
        cases = [line.partition(" ") for line in said.splitlines()]
        ended.update(outcome or ("hung" if hung else "died") for _, _, outcome in cases)
        first += len(cases)
        assert cases, "the child said nothing"
    return ended


def _last_words(reading: int, limit_s: float) -> str:
    """Read until the end, or until nothing has come for a while."""
    said = b""
    while select.select([reading], [], [], limit_s)[0] and (piece := os.read(reading, 1 << 16)):
        said += piece
    return said.decode()


def _foreign(ended: Counter[str]) -> list[str]:
    return [outcome for outcome in ended if outcome.startswith("foreign") or outcome == "hung"]


def test_mutated_graphs_end_in_our_errors() -> None:
    ended = _mutated(0, 40)

    assert (_foreign(ended), ended.total()) == ([], 40)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_graphs_mutated_in_two_thousand_ways_end_in_our_errors(
    record_property: Callable[[str, object], None],
) -> None:
    ended = _mutated(1000, 3000)

    record_property("ended", dict(ended))
    assert (_foreign(ended), ended.total()) == ([], 2000)
