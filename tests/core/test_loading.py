from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import (
    DeviceError,
    FrameworkVersionError,
    InferenceError,
    ModelLoadError,
    OptionError,
    PackageError,
    PluginError,
    Problem,
    SpecError,
    Trust,
    TrustError,
    load_neuropod,
    plugins,
)

Write = Callable[..., Path]


@pytest.fixture
def path(write: Write, tmp_path: Path) -> Path:
    return write(tmp_path / "m.neuropod")


def test_a_model_shows_what_it_is(path: Path, calc: Any) -> None:
    with load_neuropod(path) as model:
        assert (model.name, model.platform, model.framework_version) == ("add", "calc", "")
        assert [str(spec) for spec in model.inputs] == ["x: float32[N, M]", "y: float32[N, M]"]
        assert [spec.name for spec in model.outputs] == ["sum", "difference"]
        assert "add(x: float32[N, M]" in repr(model)
        assert not model.stateful
    assert [executor.closed for executor in calc.executors[-1:]] == [1]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"trust": "data"}, TrustError, "needs trust 'graph'"),
        ({"trust": "all"}, OptionError, "no trust class"),
        ({"device": "cuda"}, DeviceError, "runs on cpu, not on 'cuda'; pass device='cpu'"),
        ({"device": "cpu:x"}, DeviceError, "'cpu:x' is no device"),
        ({"device": "auto:1"}, DeviceError, "'auto:1' is no device"),
        ({"device": None}, DeviceError, "not on None"),
        ({"options": {"speed": 3}}, OptionError, "no option 'speed' \\(options: delay\\)"),
        ({"cast": "always"}, OptionError, "'always'"),
        ({"backend": "other"}, PackageError, ""),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_and_nothing_stays_open(
    arguments: dict[str, Any], kind: type[Exception], message: str, path: Path, calc: Any
) -> None:
    loaded = len(calc.executors)
    if "backend" in arguments:
        kind, message = Exception, "no backend by 'other' for platform 'calc' \\(installed: neuropod-calc\\)"

    with pytest.raises(kind, match=message):
        load_neuropod(path, **arguments)

    assert all(executor.closed == 1 for executor in calc.executors[loaded:])


def test_a_library_needs_trust_in_code(write: Write, tmp_path: Path) -> None:
    library = tmp_path / "op.so"
    library.write_bytes(b"\x7fELF")
    path = write(tmp_path / "m.neuropod", custom_ops=[library])

    with pytest.raises(TrustError, match="needs trust 'code' \\(it brings native libraries in 0/ops\\), got 'graph'"):
        load_neuropod(path)
    load_neuropod(path, trust=Trust.CODE).close()


def test_a_backend_may_need_more_trust_for_one_artefact(path: Path, calc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(calc), "trust_needed", lambda self, variant: Trust.CODE)

    with pytest.raises(TrustError, match="needs trust 'code' \\(this one holds code\\)"):
        load_neuropod(path)


def test_a_version_range_is_kept(write: Write, tmp_path: Path, calc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.neuropod", platform_version_semver=">=2 <3")
    monkeypatch.setattr(type(calc), "framework_version", lambda self: "3.1")

    with pytest.raises(FrameworkVersionError, match="package 'add' asks for calc >=2 <3, installed is 3.1"):
        load_neuropod(path)


def test_a_type_that_the_backend_lacks_is_refused(path: Path, calc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(type(calc), "descriptor", replace(calc.descriptor, dtypes=frozenset(["int8"])))

    with pytest.raises(SpecError, match="carries int8; not float32 - at .*inputs.x"):
        load_neuropod(path)


def test_an_unforeseen_error_becomes_ours(path: Path, calc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(calc), "load", lambda *_: dict[str, int]()["nothing"])

    with pytest.raises(ModelLoadError, match="loading raised KeyError: 'nothing' - at calc model 'add'") as raised:
        load_neuropod(path)
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_backend_that_loads_no_executor_is_broken(path: Path, calc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(calc), "load", lambda *_: 3)

    with pytest.raises(PluginError, match="loaded 3, not an Executor"):
        load_neuropod(path)


class Watcher:
    def __init__(self) -> None:
        self.seen: list[object] = []


def test_observers_watch_loads_and_failures(path: Path, calc: Any, x: np.ndarray) -> None:
    from neuropod_core import hookimpl

    seen: list[object] = []

    class Observer:
        @hookimpl
        def neuropod_model_loaded(self, model: Any) -> None:
            seen.append(model.name)

        @hookimpl
        def neuropod_call_failed(self, model: Any, error: Exception) -> None:
            seen.append((model.name, type(error).__name__))
            raise RuntimeError("an observer may fail")

    observer = Observer()
    plugins.observers().register(observer)
    try:
        with load_neuropod(path) as model:
            model.infer({"x": x, "y": x})
            with pytest.raises(InferenceError, match="got nothing - at inputs.y"):
                model.infer({"x": x})
    finally:
        plugins.observers().unregister(observer)
    assert seen == ["add", ("add", "TensorMismatchError")]


def test_problem_of_the_package_is_enforced(write: Write, tmp_path: Path, x: np.ndarray) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[3]"})
    path = write(tmp_path / "m.neuropod", "in_place", problem)

    with load_neuropod(path) as model:
        assert model.infer({"x": x[0]})["y"].tolist() == [1, 2, 3]
        with pytest.raises(InferenceError, match="expected float32\\[3\\], got float32\\[2\\] - at outputs.y"):
            model.infer({"x": x[0, :2]})
    with load_neuropod(path, checks=False) as model:
        assert model.infer({"x": x[0, :2]})["y"].tolist() == [1, 2]
