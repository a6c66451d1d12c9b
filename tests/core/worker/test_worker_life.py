"""Workers die, are replaced, and end with those who started them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from worker_lab import Load, said

from neuropod_core import (
    DeadlineError,
    ForkedModelError,
    InferenceError,
    ModelClosedError,
    OptionError,
    SpecError,
    Worker,
    WorkerDiedError,
    WorkerStartError,
    load_neuropod,
)
from neuropod_core.placement.worker import _supervisor


def pid_of(model: object) -> int:
    return int(model.infer(said("settings:pid"))["y"][0])  # type: ignore[attr-defined]


def is_gone(pid: int, within_s: float = 10.0) -> bool:
    """Wait until a process has ended, be it a zombie that its parent has not looked at."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


# -- start


def test_a_worker_is_another_process_that_leaves_ctrl_c_to_its_parent(load: Load) -> None:
    model = load()

    assert pid_of(model) != os.getpid()
    assert model.infer(said("settings:interrupts"))["y"].tolist() == [1.0]


def test_a_model_that_cannot_be_loaded_says_why(load: Load) -> None:
    with pytest.raises(SpecError, match="the lab is closed"):
        load(config={"fault": "raise"})


def test_a_worker_that_dies_while_it_loads_says_how(load: Load) -> None:
    with pytest.raises(WorkerStartError, match=r"exit code 7 before it was ready; it wrote: no luck today"):
        load(config={"fault": "exit"})


def test_a_worker_that_is_not_ready_in_time_is_ended(load: Load) -> None:
    started = time.monotonic()

    with pytest.raises(WorkerStartError, match=r"was not ready within 1 s.*start_timeout_s"):
        load(config={"fault": "sleep"}, start_timeout_s=1)

    assert time.monotonic() - started < 30


def test_a_failed_start_leaves_no_process_and_no_descriptor(load: Load) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(WorkerStartError):
            load(config={"fault": "exit"})
    gc.collect()

    assert not children()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


# -- death


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("kill:9", r"signal 9 \(SIGKILL\)"),
        ("kill:15", r"signal 15 \(SIGTERM\)"),
        ("exit:3", "exit code 3"),
        ("leave:4", "exit code 4"),
        ("segfault", r"signal 11 \(SIGSEGV\).*about to read address 0"),
    ],
)
def test_a_death_fails_its_call_and_the_next_one_runs(load: Load, command: str, how: str) -> None:
    model = load()
    before = pid_of(model)

    with pytest.raises(WorkerDiedError, match=f"the worker of 'lab' ended by {how}"):
        model.infer(said(command))

    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]
    assert pid_of(model) != before
    assert (model.stats()["restarts"], model.stats()["failed"]) == (1, 1)
    assert is_gone(before)


def test_a_death_fails_the_calls_that_run_and_no_others(load: Load) -> None:
    model = load(slots=2)
    outcomes: list[str] = []

    def call(command: str) -> None:
        try:
            model.infer(said(command, [1.0]))
            outcomes.append(f"{command}: done")
        except WorkerDiedError:
            outcomes.append(f"{command}: died")

    threads = [threading.Thread(target=call, args=(command,)) for command in ("sleep:20", "sleep:21")]
    for thread in threads:
        thread.start()
    lines = model._executor._only.connection.lines  # type: ignore[attr-defined]
    while not all(line.call and not line.untouched for line in lines):
        time.sleep(0.01)
    waiting = [threading.Thread(target=call, args=(command,)) for command in ("copy", "double")]
    for thread in waiting:
        thread.start()
    while model.stats()["waiting"] < 2:  # type: ignore[operator]
        time.sleep(0.01)
    os.kill(int(model.stats()["replicas"][0]["pid"]), signal.SIGKILL)  # type: ignore[index]
    for thread in threads + waiting:
        thread.join(30)

    assert sorted(outcomes) == ["copy: done", "double: done", "sleep:20: died", "sleep:21: died"]


def test_an_idle_worker_that_dies_is_replaced(load: Load) -> None:
    model = load()
    before = pid_of(model)
    os.kill(before, signal.SIGKILL)
    assert is_gone(before)

    assert model.infer(said("copy", [1.0]), timeout_s=30)["y"].tolist() == [1.0]


def test_a_worker_that_dies_again_and_again_is_given_up(load: Load) -> None:
    model = load(restarts=2)

    for _ in range(3):
        with pytest.raises(WorkerDiedError):
            model.infer(said("exit:1"))
    with pytest.raises(WorkerDiedError, match="exit code 1"):
        model.infer(said("copy"))


def test_a_stateful_model_is_not_started_anew(load: Load) -> None:
    model = load(config={"stateful": True})
    assert model.stateful

    with pytest.raises(WorkerDiedError, match="load the model again"):
        model.infer(said("exit:1"))
    with pytest.raises(WorkerDiedError):
        model.infer(said("copy"))


def test_a_late_call_ends_its_worker_where_that_was_asked_for(load: Load) -> None:
    model = load(kills_late=True)
    before = pid_of(model)

    with pytest.raises(DeadlineError):
        model.infer(said("sleep:30"), timeout_s=0.2)

    assert is_gone(before)
    assert model.infer(said("copy", [1.0]), timeout_s=30)["y"].tolist() == [1.0]


def test_results_outlive_the_worker(load: Load) -> None:
    model = load()
    kept = model.infer(said("double", np.ones(1 << 17)))["y"]
    with pytest.raises(WorkerDiedError):
        model.infer(said("exit:1"))
    for _ in range(5):
        model.infer(said("double", np.zeros(1 << 17)))

    assert kept.sum() == 2 << 17


# -- limits and settings


def test_what_a_worker_writes_is_logged_under_its_name(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    model = load()
    with caplog.at_level(logging.INFO, "neuropod.worker"):
        model.infer(said("print:ahoi"))
        until = time.monotonic() + 10
        while caplog.text.count("lab: ahoi") < 2 and time.monotonic() < until:
            time.sleep(0.01)

    assert caplog.text.count("lab: ahoi") == 2


def test_what_a_worker_writes_commands_no_terminal(
    package: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        load_neuropod(package(), placement="worker", trust="sandboxed") as model,
        caplog.at_level(logging.INFO, "neuropod.worker"),
    ):
        model.infer(said("print:a\tb\x1b]0;pwn\x07\x9b2J\u202e\r\N{SNOWMAN}"))
        with pytest.raises(WorkerDiedError) as died:
            model.infer(said("kill:9"))

    shown = r"a   b\x1b]0;pwn\x07\x9b2J\u202e\r" + "\N{SNOWMAN}"
    assert died.value.last_lines[-1] == shown
    assert shown in str(died.value)
    assert "\x1b" not in caplog.text
    assert caplog.text.count(shown) == 2


def test_debug_logging_follows_one_call(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "neuropod.worker"):
        model = load()
        model.infer(said("copy", [1.0]))
        with pytest.raises(InferenceError):
            model.infer(said("raise:silence"))
        model.infer(said("copy", [1.0]))
        until = time.monotonic() + 10
        while caplog.text.count("ran in") < 2 and time.monotonic() < until:
            time.sleep(0.01)

    assert "slot 0, call 1: ran in" in caplog.text
    assert "slot 0, call 2: raised KeyboardInterrupt after" in caplog.text
    assert "slot 0, call 3: ran in" in caplog.text


def test_settings_reach_the_process(load: Load) -> None:
    cpu = min(os.sched_getaffinity(0))
    model = load(cpus=[[cpu]], nice=3, variables={"LAB_NUMBER": "42"}, threads=1)

    assert model.infer(said("settings:cpus"))["y"].tolist() == [1.0]
    assert model.infer(said("settings:nice"))["y"].tolist() == [os.nice(0) + 3]
    assert model.infer(said("environment:LAB_NUMBER"))["y"].tolist() == [42.0]
    assert model.infer(said("environment:OMP_NUM_THREADS"))["y"].tolist() == [1.0]


def test_a_memory_limit_makes_allocations_fail(load: Load) -> None:
    model = load(memory_limit_bytes=1 << 30)

    with pytest.raises(InferenceError, match=r"MemoryError|Unable to allocate"):
        model.infer(said("grow:2000"))

    assert model.infer(said("copy", [1.0]), timeout_s=30)["y"].tolist() == [1.0]


def test_a_memory_limit_that_no_worker_can_start_with_is_named(load: Load) -> None:
    with pytest.raises(WorkerStartError, match=r"pass a larger Worker\(memory_limit_bytes=...\), or leave it out"):
        load(memory_limit_bytes=1000)


def test_replicas_share_the_work(load: Load) -> None:
    model = load(replicas=2, slots=1)
    pids: set[int] = set()

    def call() -> None:
        model.infer(said("sleep:0.3"))
        pids.add(pid_of(model))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(model.description["pids"]) == 2  # type: ignore[arg-type]
    assert pids <= set(model.description["pids"])  # type: ignore[call-overload]
    assert model.stats()["calls"] == 8


def test_a_stateful_model_has_one_worker(load: Load) -> None:
    with pytest.raises(OptionError, match="a stateful model has one worker"):
        load(config={"stateful": True}, replicas=2)


def test_a_caller_who_waits_goes_to_the_worker_that_is_idle_first(load: Load) -> None:
    model = load(replicas=2, slots=1)
    started = time.monotonic()

    def sleep(seconds: float) -> None:
        with suppress(ModelClosedError):
            model.infer(said(f"sleep:{seconds}"))

    for seconds in (6, 0.3):
        thread = threading.Thread(target=sleep, args=(seconds,))
        thread.start()
        while not model.stats()["running"]:
            time.sleep(0.01)
    while model.stats()["running"] != 2:
        time.sleep(0.01)
    waiting = [threading.Thread(target=model.infer, args=(said("copy", [1.0]),)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()

    assert time.monotonic() - started < 4


def test_a_worker_that_retires_waits_for_nobody_who_has_gone(load: Load) -> None:
    model = load(restart_after_calls=1)
    with pytest.raises(DeadlineError):
        model.infer(said("sleep:60"), timeout_s=0.1)
    before = pid_of(model)  # A call that is answered.

    assert model.infer(said("settings:pid"), timeout_s=20)["y"].size == 1
    until = time.monotonic() + 20
    while pid_of(model) == before:
        assert time.monotonic() < until


@pytest.mark.parametrize("limit", [{"restart_after_calls": 3}, {"restart_above_bytes": 1 << 40}], ids=str)
def test_a_stateful_model_keeps_its_worker(load: Load, limit: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="a stateful model keeps its worker"):
        load(config={"stateful": True}, **limit)


def test_a_worker_that_retires_is_none_that_died(load: Load) -> None:
    model = load(restart_after_calls=3, restarts=0)
    pids: set[int] = set()
    until = time.monotonic() + 30
    while len(pids) < 4 and time.monotonic() < until:
        with pytest.raises(SpecError):  # Errors are answers too.
            model.infer(said("raise:spec"))
        pids.add(pid_of(model))
        time.sleep(0.005)

    assert len(pids) == 4


def test_a_supervisor_that_fails_lets_nobody_wait(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    outcomes: list[BaseException] = []

    def call() -> None:
        try:
            model.infer(said("sleep:60"))
        except InferenceError as error:
            outcomes.append(error)
        except WorkerStartError as error:
            outcomes.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not model.stats()["running"]:
        time.sleep(0.01)
    monkeypatch.setattr(_supervisor.Supervisor, "_is_worn", lambda *_: 1 / 0)
    model._executor._supervisors[0].wake()  # type: ignore[attr-defined]
    thread.join(20)

    assert "its supervisor failed: ZeroDivisionError: division by zero; load the model again" in str(outcomes[0])
    with pytest.raises(WorkerStartError, match="its supervisor failed"):
        model.infer(said("copy"))


def test_a_worker_retires_after_so_many_calls(load: Load) -> None:
    model = load(restart_after_calls=20)
    pids: set[int] = set()
    until = time.monotonic() + 20
    while len(pids) < 3 and time.monotonic() < until:
        pids.add(pid_of(model))
        time.sleep(0.005)

    assert len(pids) >= 3


def test_a_worker_that_grew_is_replaced(load: Load) -> None:
    model = load(restart_above_bytes=300 << 20)
    before = pid_of(model)
    model.infer(said("grow:400"))

    assert is_gone(before)
    assert pid_of(model) != before


# -- ends


def test_closing_leaves_no_process(load: Load) -> None:
    model = load(replicas=2)
    pids = model.description["pids"]
    model.close()

    assert all(is_gone(pid) for pid in pids)  # type: ignore[attr-defined]


def test_a_worker_that_hangs_in_close_is_killed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuropod_core.placement.worker._supervisor.GRACE_S", 0.3)
    model = load(variables={"LAB_HANGS_IN_CLOSE": "1"})
    pid = pid_of(model)
    model.close()

    assert is_gone(pid)


def test_a_dropped_model_ends_its_worker(package: Callable[..., Path], transport: str) -> None:
    model = load_neuropod(package(), placement=Worker(transport=transport))
    pid = pid_of(model)
    del model
    gc.collect()

    assert is_gone(pid)


def test_a_model_loaded_by_a_thread_that_ends_lives_on(package: Callable[..., Path], transport: str) -> None:
    models: list[object] = []
    place = Worker(transport=transport)
    thread = threading.Thread(target=lambda: models.append(load_neuropod(package(), placement=place)))
    thread.start()
    thread.join()
    time.sleep(0.2)  # The kernel would have ended it by now.

    model = models[0]
    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]  # type: ignore[attr-defined]
    model.close()  # type: ignore[attr-defined]


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import worker_lab
from neuropod_core import Worker, load_neuropod, plugins
plugins.register(worker_lab, "lab")
model = load_neuropod({package!r}, placement=Worker(transport={transport!r}))
print(int(model.infer(worker_lab.said("settings:pid"))["y"][0]), flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end", ["pass", "sys.exit(3)", "import os; os._exit(0)", "input()", "import os; os.kill(os.getpid(), 9)"]
)
def test_the_end_of_the_parent_is_the_end_of_the_worker(package: Callable[..., Path], transport: str, end: str) -> None:
    folder = str(Path(__file__).parent / "plugin")
    program = PROGRAM.format(folder=folder, package=str(package()), transport=transport, end=end)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if end == "input()":
            parent.kill()
        parent.wait(30)

    assert is_gone(pid)


def test_a_fork_is_told_to_load_its_own(load: Load, package: Callable[..., Path], transport: str) -> None:
    model = load()
    assert pid_of(model)
    pid = os.fork()
    if pid == 0:  # The child: what it finds out is its exit code.
        code = 1
        try:
            model.infer(said("copy"))
        except ForkedModelError:
            model.close()
            with load_neuropod(package(), placement=Worker(transport=transport)) as own:
                code = 0 if own.infer(said("copy", [5.0]))["y"].tolist() == [5.0] else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]


def test_nothing_has_a_name(load: Load) -> None:
    named = Path("/dev/shm")  # noqa: S108 - looked at, not used
    before = sorted(named.iterdir()) if named.is_dir() else []
    model = load()
    kept = model.infer(said("double", np.ones(1 << 17)))["y"]

    assert kept[0] == 2
    assert before == (sorted(named.iterdir()) if named.is_dir() else [])


def test_loading_and_closing_leaks_no_descriptor(load: Load) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    load().close()
    before = descriptors()
    for _ in range(4):
        model = load()
        model.infer(said("double", np.ones(1 << 17)))
        with pytest.raises(WorkerDiedError):
            model.infer(said("exit:1"))
        model.infer(said("copy", [1.0]))
        model.close()
    gc.collect()

    assert descriptors() <= before


def test_a_closing_parent_does_not_wait_for_a_starting_worker(load: Load) -> None:
    model = load()
    with pytest.raises(WorkerDiedError):
        model.infer(said("exit:1"))
    model.close()

    with pytest.raises(ModelClosedError):
        model.infer(said("copy"))


def test_a_worker_placement_is_reusable(package: Callable[..., Path], transport: str) -> None:
    place = Worker(transport=transport)
    with load_neuropod(package(), placement=place) as one, load_neuropod(package(), placement=place) as two:
        assert pid_of(one) != pid_of(two)


def test_a_worker_is_told_the_thread_settings_of_its_parent(load: Load) -> None:
    inherits, has_its_own = load(), load(threads=1)

    assert inherits.infer(said("settings:told"))["y"][0] == 3
    assert inherits.infer(said("settings:teller"))["y"][0] == os.getpid()
    assert has_its_own.infer(said("settings:told"))["y"][0] == 0
