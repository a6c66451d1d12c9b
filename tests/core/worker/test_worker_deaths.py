"""How a worker ended is said as it was, or said to be unknown; what could not be started leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import worker_lab
from worker_lab import Load, said

from neuropod_core import (
    InferenceError,
    NeuropodError,
    OptionError,
    WorkerDiedError,
    WorkerStartError,
    load_neuropod,
)
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._process import Process
from neuropod_core.placement.worker._recipe import Home


@pytest.fixture
def ignores_children() -> Iterator[None]:
    """Have this process ignore SIGCHLD, so that the kernel tells nobody how a child ended."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


def ended(load: Load, command: str) -> WorkerDiedError:
    with pytest.raises(WorkerDiedError) as caught:
        load().infer(said(command))
    return caught.value


@pytest.mark.parametrize(
    ("command", "how"),
    [("kill:9", "signal 9 (SIGKILL)"), ("segfault", "signal 11 (SIGSEGV)"), ("exit:0", "exit code 0")],
)
def test_how_a_worker_ended_is_said_in_the_same_words_whatever_is_seen_first(
    load: Load, command: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the socket is seen before that of the process: certain here, where nobody sees that until waited."""
    model = load()
    monkeypatch.setattr(Process, "ended", property(lambda self: self._popen.returncode is not None))

    with pytest.raises(WorkerDiedError) as caught:
        model.infer(said(command))

    error = caught.value
    assert error.how == how
    assert ("may have run out of memory" in error.remedy) == (command == "kill:9")


@pytest.mark.usefixtures("ignores_children")
@pytest.mark.parametrize("command", ["kill:9", "segfault", "exit:3"])
def test_how_is_unknown_where_sigchld_is_ignored(load: Load, command: str) -> None:
    error = ended(load, command)

    assert error.how == "unknown, since this process ignores SIGCHLD"
    assert "the worker of 'lab' ended; how is unknown, since this process ignores SIGCHLD" in str(error)


@pytest.mark.usefixtures("ignores_children")
def test_a_start_that_failed_is_of_unknown_cause_where_sigchld_is_ignored(load: Load) -> None:
    with pytest.raises(WorkerStartError, match=r"before it was ready; how is unknown, since .*; it wrote: no luck"):
        load(config={"fault": "exit"})


def test_how_is_unknown_where_somebody_else_waited(load: Load) -> None:
    process = Process("lab", Home(), {}, {}, Doorbell())
    try:
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)

        assert process.await_end(10)
        assert process.how_it_ended() == "unknown, since something else in this process waited for it"
    finally:
        process.end(0)


AT_THE_LIMIT = """
import gc, os, resource, sys, time
import worker_lab
from neuropod_core import Worker, WorkerStartError, load_neuropod, plugins

def count():
    return len(os.listdir("/proc/self/fd"))

def main():
    plugins.register(worker_lab, "lab")
    path, transport, numbers = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
    load_neuropod(path, placement=Worker(transport=transport)).close()
    gc.collect()
    before, most = count(), resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in numbers:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, most[1]))
        said, started = "loaded", time.monotonic()
        try:
            load_neuropod(path, placement=Worker(transport=transport, replicas=2)).close()
        except WorkerStartError as error:
            said = str(error)
        took = time.monotonic() - started
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
        gc.collect()
        assert count() <= before, (number, count(), before, said)
        assert took < 10, (number, took, said)
        assert said == "loaded" or ("ulimit -n" in said and "too many open files" in said.lower()), (number, said)
        print(number, said)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_a_start_at_the_limit_of_open_files_says_so_at_once_and_leaves_nothing(
    package: Callable[..., Path], transport: str, tmp_path: Path
) -> None:
    program = tmp_path / "limit.py"
    program.write_text(AT_THE_LIMIT)
    environment = {**os.environ, "PYTHONPATH": str(Path(worker_lab.__file__).parent)}
    numbers = map(str, (12, 14, 16, 18, 20, 22, 25, 28, 30, 34, 38, 40, 44, 50, 60))
    command = [sys.executable, str(program), str(package()), transport, *numbers]
    ran = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=200)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "12 too many open files" in ran.stdout


# -- what both ways say alike


def test_an_interrupt_of_the_model_says_where(load: Load) -> None:
    with pytest.raises(InferenceError, match=r"raised KeyboardInterrupt - at worker_lab.py:\d+$"):
        load().infer(said("raise:silence"))


@pytest.mark.parametrize("length", [10**12, 10**18])
def test_memory_that_no_machine_has_is_refused_both_ways(load: Load, package: Callable[..., Path], length: int) -> None:
    with load_neuropod(package()) as here:
        for model in (here, load()):
            with pytest.raises(
                MemoryError, match=f"{8 * length} bytes.*; pass (a smaller shape|smaller tensors)"
            ) as caught:
                model.allocate("x", (length,))
            assert isinstance(caught.value, NeuropodError)


def test_a_backend_without_native_tensors_says_so_from_a_worker_too(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    assert model.infer(said("copy", [1.0]), result="native")["y"].tolist() == [1.0]

    ready = model._executor._supervisors[0].ready  # type: ignore[attr-defined]
    assert ready["gives_native"] is True
    monkeypatch.setitem(ready, "gives_native", False)
    with pytest.raises(OptionError, match="this backend gives no native tensors"):
        model.infer(said("copy", [1.0]), result="native")
    monkeypatch.delitem(ready, "gives_native")
    assert model.infer(said("copy", [1.0]), result="native")["y"].tolist() == [1.0]
