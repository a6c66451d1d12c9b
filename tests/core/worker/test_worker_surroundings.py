"""What lies around a worker: the caller's folders, a package that changes, settings that cannot be, odd times."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worker_lab
from worker_lab import Load, said

from neuropod_core import (
    DeadlineError,
    InferenceError,
    Neuropod,
    OptionError,
    PackageIntegrityError,
    Worker,
    WorkerStartError,
    load_neuropod,
    sandbox,
)
from neuropod_core._workplaces import Workplace
from neuropod_core.placement.worker._process import Process, _own_path
from neuropod_core.placement.worker._recipe import Home

MakePackage = Callable[..., Path]


def _pid(model: Neuropod) -> int:
    replicas: Any = model.stats()["replicas"]
    return int(replicas[0]["pid"])


# -- the folders of the caller


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with a secret, from which Python imports, as an interactive one does."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "secret").write_text("private")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", str(folder), *sys.path])
    return folder


def test_a_caged_worker_reads_nothing_of_the_current_folder(home: Path, package: MakePackage) -> None:
    assert not sandbox.available().missing
    with load_neuropod(package(), placement="worker", trust="sandboxed") as model:
        assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]
        with pytest.raises(InferenceError, match="PermissionError"):
            model.infer(said(f"read:{home / 'secret'}"))

    with load_neuropod(package(), placement="worker") as model:
        assert model.infer(said(f"read:{home / 'secret'}"))["y"].tolist() == [7.0]


def test_a_caged_worker_is_given_variables_by_their_full_names(
    package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TF_TOKEN_app_terraform_io", "OMP_X", "MINE", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "5")
    place = Worker(variables={"MINE": "7"})
    with load_neuropod(package(), placement=place, trust="sandboxed") as model:
        for name in ("TF_TOKEN_app_terraform_io", "OMP_X"):
            with pytest.raises(InferenceError, match=f"KeyError: '{name}'"):
                model.infer(said(f"environment:{name}"))
        assert model.infer(said("environment:KMP_BLOCKTIME"))["y"].tolist() == [5.0]
        assert model.infer(said("environment:MINE"))["y"].tolist() == [7.0]


def test_what_was_installed_is_on_the_path_of_a_caged_worker(tmp_path: Path, home: Path) -> None:
    target, editable, mine = (tmp_path / name for name in ("target", "editable", "mine"))
    for folder in (target, editable, mine):
        folder.mkdir()
    (target / "thing-1.0.dist-info").mkdir()

    kept = sandbox.installed_entries([str(target), str(editable), str(home), sys.prefix, str(mine)], mine)

    assert kept == [str(target), sys.prefix, str(mine)]


def test_editable_installations_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, editable, other = (tmp_path / name for name in ("site-packages", "editable", "other"))
    for folder in (packages, editable, other):
        folder.mkdir()
    (packages / "mine.pth").write_text(f"# a remark\nimport sys\n{editable}\n\n")
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(packages)])

    assert sandbox.installed_entries([str(packages), str(editable), str(other)]) == [str(editable)]


def test_a_current_folder_that_is_gone_is_on_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(sys, "path", ["", "/somewhere"])
    gone.rmdir()

    assert _own_path(Home()) == ["/somewhere"]
    os.chdir(tmp_path)
    assert _own_path(Home()) == [str(tmp_path), "/somewhere"]


# -- a package that changes


def test_no_worker_is_started_on_other_files_than_those_that_were_loaded(package: MakePackage) -> None:
    path = package(thread_safe=True)
    with load_neuropod(path, placement="worker") as model:
        assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]
        (path / "0" / "scratch").write_text("a model may keep something beside its files")
        os.kill(_pid(model), signal.SIGKILL)
        assert model.infer(said("copy", [1.0]), timeout_s=20)["y"].tolist() == [1.0]
        config = path / "0" / "config.json"
        config.write_text(config.read_text().replace("true", "false"))

        os.kill(_pid(model), signal.SIGKILL)
        with pytest.raises(PackageIntegrityError, match=r"package that was loaded, got other files \(config.json\)"):
            model.infer(said("copy", [1.0]), timeout_s=20)


def test_a_package_that_is_gone_is_said_to_be(package: MakePackage) -> None:
    path = package()
    with load_neuropod(path, placement="worker") as model:
        path.rename(path.with_name("elsewhere"))
        os.kill(_pid(model), signal.SIGKILL)
        with pytest.raises(PackageIntegrityError, match=r"got none of its files .* the files are gone"):
            model.infer(said("copy", [1.0]), timeout_s=20)


# -- settings and starts


@pytest.mark.parametrize(
    "settings",
    [
        {"start_timeout_s": math.nan},
        {"start_timeout_s": None},
        {"start_timeout_s": 0},
        {"threads": "a"},
        {"threads": -2},
        {"kills_late": "x"},
        {"cpus": [0]},
        {"cpus": []},
        {"cpus": [[]]},
        {"cpus": [["0"]]},
        {"cpus": [[0], [0]]},
        {"gpus": [0, 1, 2], "replicas": 2},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=rf"Worker\({next(iter(settings))}=\.\.\.\)"):
        Worker(**settings)


@pytest.mark.parametrize("variables", [{"A=B": "x"}, {"A": "a\0b"}, {"": "x"}], ids=str)
def test_variables_that_cannot_be_are_refused_with_the_reason(variables: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="no name empty or with '=', none of them with a NUL"):
        Worker(variables=variables)


def test_a_worker_may_take_for_ever_to_start(load: Load) -> None:
    assert load(start_timeout_s=math.inf).infer(said("copy", [1.0]))["y"].tolist() == [1.0]


def test_a_worker_that_ends_by_itself_is_not_said_to_be_killed(
    package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 1 << 20)  # Some are not for everybody.
    with pytest.raises(WorkerStartError, match="ended by exit code 1 before it was ready; it wrote: .*OSError"):
        load_neuropod(package(), placement=Worker(cpus=[[99999]]))


def test_an_interrupt_while_a_worker_loads_ends_it_at_once(package: MakePackage, monkeypatch: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    graces: list[float] = []
    end = Process.end

    def noted(process: Process, grace_s: float) -> None:
        graces.append(grace_s)
        end(process, grace_s)

    monkeypatch.setattr(Process, "end", noted)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            load_neuropod(package(fault="sleep"), placement="worker")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert graces == [0.0]


# -- times


@pytest.mark.parametrize("timeout_s", [math.nan, "1", True, [1], 0, -0.5, np.float32(-1), -math.inf], ids=str)
def test_a_time_that_is_none_is_refused(load: Load, package: MakePackage, timeout_s: Any) -> None:
    model = load()
    with pytest.raises(OptionError, match="timeout_s is a number of seconds"):
        model.infer(said("copy", [1.0]), timeout_s=timeout_s)
    with (
        load_neuropod(package()) as here,
        pytest.raises(OptionError, match="timeout_s is a number of seconds above 0"),
    ):
        here.infer(said("copy", [1.0]), timeout_s=timeout_s)
    with pytest.raises(OptionError, match="timeout_s is a number of seconds above 0"):
        asyncio.run(model.infer_async(said("copy", [1.0]), timeout_s=timeout_s))


@pytest.mark.parametrize("timeout_s", [math.inf, 1e30, np.float32(20), np.int64(20)], ids=str)
def test_a_time_may_be_long_or_of_numpy(load: Load, timeout_s: Any) -> None:
    model = load()

    assert model.infer(said("copy", [1.0]), timeout_s=timeout_s)["y"].tolist() == [1.0]
    assert asyncio.run(model.infer_async(said("copy", [1.0]), timeout_s=timeout_s))["y"].tolist() == [1.0]


def test_native_results_are_waited_for_as_long_as_others(load: Load) -> None:
    model = load()
    with pytest.raises(DeadlineError):
        model.infer(said("sleep:2"), timeout_s=0.1, result="native")


# -- what is left


LOADED = """
import sys
sys.path.insert(0, sys.argv[2])
import worker_lab
from neuropod_core import load_neuropod, plugins
plugins.register(worker_lab, "lab")
model = load_neuropod(sys.argv[1], placement="worker", trust="sandboxed")
print(model.stats()["replicas"][0]["pid"], flush=True)
sys.stdin.read()
"""


@contextmanager
def another_program(package: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program that has a caged worker and this folder for what is temporary, and waits."""
    given = [sys.executable, "-c", LOADED, str(package), str(Path(worker_lab.__file__).parent)]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as program:
        yield program


def test_scratch_of_a_killed_program_goes_when_the_next_worker_comes(
    package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = tmp_path / "temporary", package()
    folder.mkdir()
    (folder / ".neuropod-scratch-of-mine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with another_program(path, folder) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        (left,) = folder.glob(".neuropod-scratch-????????????????")
        (left / "something").write_text("written by a model")
        with load_neuropod(path, placement="worker", trust="sandboxed") as model:
            (mine,) = set(folder.glob(".neuropod-scratch-????????????????")) - {left}
            assert left.exists(), "another program uses it"
            killed.kill()
            killed.wait()
            with load_neuropod(path, placement="worker", trust="sandboxed"):
                assert not left.exists()
                assert mine.exists()
            assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]

    assert [path.name for path in folder.iterdir()] == [".neuropod-scratch-of-mine"]


def test_a_folder_that_is_being_made_is_left_alone_for_a_while(tmp_path: Path) -> None:
    young, old = (tmp_path / f".neuropod-scratch-{digit * 16}.new" for digit in "ab")
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    workplace = Workplace(tmp_path, "scratch")

    assert sorted(tmp_path.iterdir()) == sorted((young, workplace.folder))
    workplace.close()
    assert list(tmp_path.iterdir()) == [young]


def test_a_closed_model_leaves_no_descriptor_to_the_collector(package: MakePackage) -> None:
    def descriptors() -> set[str]:
        folder = Path("/proc/self/fd")
        return {f"{path.name} {path.readlink()}" for path in folder.iterdir() if path.exists()}

    path = package()
    with load_neuropod(path, placement="worker") as model:  # Whatever is opened once, is open from here on.
        model.infer(said("copy", [1.0]))
    gc.collect()
    before = descriptors()
    gc.disable()
    try:
        with load_neuropod(path, placement="worker") as model:
            allocated = model.allocate("x", (50_000,))
            allocated[...] = 1
            for x in ([1.0], np.ones(50_000), allocated, allocated):
                for _ in range(3):
                    model.infer(said("made", x))
            asyncio.run(model.infer_async(said("copy", np.ones(50_000))))
        del model, allocated, x

        assert not sorted(descriptors() - before)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["json", "socket", "neuropod_core"])
def test_what_lies_in_the_current_folder_is_not_run(
    name: str, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the folder of a package that nobody trusts."""
    here = tmp_path / "here"
    here.mkdir()
    (here / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(here)

    assert load().infer(said("copy", [1.0]))["y"].tolist() == [1.0]
    assert not (tmp_path / "ran").exists()
