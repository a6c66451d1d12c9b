"""Checks that a model leaves everything around it as it was: the process, the files, the terminal."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuropod_core.errors import InferenceError
from neuropod_core.model import Neuropod
from neuropod_core.packaging import repack
from neuropod_core.testing._arrays import assert_identical
from neuropod_core.testing._models import StandardModel
from neuropod_core.testing._suite import Opened, Subject, Suite
from neuropod_core.testing._surroundings import changed, held, resident_bytes, surroundings, unusual

_CYCLES, _CALLS = 10, 300
_MIB = 1 << 20


class SurroundingsTests(Suite):
    """A model is a guest: what it does not own it neither changes nor keeps.

    A framework may set things up when it is imported and at the first call, so every check begins after both.
    """

    def test_a_call_changes_nothing_around_it(self, subject: Subject, model: Neuropod) -> None:
        model.infer(subject.inputs)

        with unusual():
            before = surroundings()
            model.infer(subject.inputs)
            assert changed(before) == []

    def test_a_model_changes_nothing_around_it(self, subject: Subject) -> None:
        self._live(subject)

        with unusual():
            before = surroundings()
            self._live(subject)
            assert changed(before) == []

    def test_a_model_prints_nothing(self, subject: Subject, capfd: pytest.CaptureFixture[str]) -> None:
        self._live(subject)
        capfd.readouterr()

        self._live(subject)

        assert capfd.readouterr() == ("", "")

    def test_a_package_stays_as_it_is(self, subject: Subject, tmp_path: Path) -> None:
        folder = tmp_path / "stays.neuropod"
        repack(subject.path, folder, package_as_zip=False)
        before = _contents(folder)

        self._live(Subject(folder, subject.inputs, None))

        assert _contents(folder) == before

    def test_a_package_may_lie_anywhere(
        self, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "naïve %20 #1 'folder'"
        place.mkdir()
        repack(subject.path, place / "m.neuropod", package_as_zip=False)

        monkeypatch.chdir(place)
        with self.load(Path("m.neuropod")) as model, self.load(subject.path) as plain:
            monkeypatch.chdir(tmp_path)
            assert_identical(model.infer(subject.inputs), plain.infer(subject.inputs))

    def test_models_leave_nothing_behind(
        self, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tmp").mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
        monkeypatch.setattr(tempfile, "tempdir", None)

        assert _kept(lambda: self._live(subject), _CYCLES) == []

    def test_closed_models_give_their_memory_back(self, subject: Subject) -> None:
        for _ in range(_CYCLES):
            self._live(subject)
        gc.collect()
        before = resident_bytes()

        for _ in range(_CYCLES):
            self._live(subject)
        gc.collect()

        assert resident_bytes() - before < 4 * _CYCLES * _MIB

    def test_calls_leave_nothing_behind(self, subject: Subject, model: Neuropod) -> None:
        assert _kept(lambda: model.infer(subject.inputs), _CALLS) == []
        assert _objects_kept(lambda: model.infer(subject.inputs), _CALLS) < _CALLS

    def test_failing_calls_leave_nothing_behind(self, opened: Opened) -> None:
        model = opened(StandardModel.FAILING)
        wrong = {"x": np.ones(4, np.float32)}

        def fail() -> None:
            with pytest.raises(InferenceError):
                model.infer(wrong)

        assert _kept(fail, _CALLS) == []
        assert _objects_kept(fail, _CALLS) < _CALLS

    def _live(self, subject: Subject) -> None:
        with self.load(subject.path) as model:
            model.infer(subject.inputs)


def _kept(what: Callable[[], object], times: int) -> list[str]:
    """Name what the process holds one more of for every time that something is done."""
    for _ in range(2):
        what()
    before = held()
    for _ in range(times):
        what()
    return [name for name, count in held().items() if count - before[name] >= times]


def _objects_kept(what: Callable[[], object], times: int) -> int:
    """Count the blocks of Python's memory that are not given back."""
    for _ in range(times):
        what()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(times):
        what()
    gc.collect()
    return sys.getallocatedblocks() - before


def _contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = [(path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    return dict(zip(map(str, files), facts, strict=True))
