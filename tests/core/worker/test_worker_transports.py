"""Ways to a worker: which one is taken, systems that lack what Linux has, and workers that say what no worker says."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_lab import Load, said

from neuropod_core import DeadlineError, Neuropod, OptionError, Worker, WorkerDiedError, load_neuropod
from neuropod_core.dtypes import DType
from neuropod_core.errors import WorkerProtocolError
from neuropod_core.placement.worker import _frames, _shared_memory
from neuropod_core.placement.worker._bells import IN, Doorbell, SelectorPoll
from neuropod_core.placement.worker._packets import (
    CALL,
    ERROR,
    HEADER,
    RESULTS,
    Bounds,
    Incoming,
    Introduction,
    Layouts,
    outgoing,
)
from neuropod_core.placement.worker._segments import adopt_segment, create_segment
from neuropod_core.testing.strategies import tensors

LARGE = 1 << 18  # Numbers of float64: two megabytes, more than sockets hold.
BOUNDS = Bounds(1 << 20, 4)


def pid_of(model: Neuropod) -> int:
    return int(model.infer(said("settings:pid"))["y"][0])


# -- which one


def test_shared_memory_is_taken_where_it_is_to_be_had(package: Callable[..., Path]) -> None:
    with load_neuropod(package(), placement="worker") as model:
        x = model.allocate("x", (LARGE,))

        assert type(x.base).__name__ == "BlockArray"


def test_sockets_are_taken_where_it_is_not(package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_memory, "is_available", lambda: False)

    with load_neuropod(package(), placement="worker") as model:
        assert model.allocate("x", (LARGE,)).base is None
        assert model.infer(said("double", [1.0]))["y"].tolist() == [2.0]
    with pytest.raises(OptionError, match="no sealed shared memory - at transport; leave transport out: 'socket' is"):
        Worker(transport="shared_memory")


@pytest.mark.parametrize("name", ["pigeon", "", 3], ids=str)
def test_a_transport_of_no_name_is_refused(name: object) -> None:
    with pytest.raises(OptionError, match=r"Worker\(transport=...\) is one of 'shared_memory', 'socket', not"):
        Worker(transport=name)  # type: ignore[arg-type]


def test_a_python_of_an_older_c_library_shares_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("memfd_create", "MFD_CLOEXEC", "MFD_ALLOW_SEALING"):
        monkeypatch.delattr(os, name)
    for name in [name for name in vars(fcntl) if "SEAL" in name]:
        monkeypatch.delattr(fcntl, name)

    segment = create_segment(0, 5000)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, 10)
    assert not os.get_inheritable(segment.descriptor)
    adopted = adopt_segment(0, os.dup(segment.descriptor), segment.nbytes)
    adopted.memory[:4] = b"here"

    assert segment.memory[:4] == b"here"
    for each in (segment, adopted):
        each.close()


# -- systems without what only Linux has

LACKING = """
import fcntl, os, select, socket, sys
for module, names in {
    os: ("eventfd", "eventfd_read", "eventfd_write", "EFD_CLOEXEC", "EFD_NONBLOCK", "memfd_create", "MFD_CLOEXEC",
         "MFD_ALLOW_SEALING", "pidfd_open", "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "waitid"),
    select: ("poll", "epoll"),
    fcntl: tuple(name for name in vars(fcntl) if "SEAL" in name),
    socket: ("MSG_CMSG_CLOEXEC",),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
if hasattr(os, "process_cpu_count"):
    os.process_cpu_count = os.cpu_count  # As it is defined there.
import ctypes
ctypes.CDLL = None  # And no prctl.
import subprocess, selectors, signal, threading, logging, platform, site
sys.platform = "darwin"
"""

PROGRAM = """
import asyncio, os, sys, threading, time
sys.path.insert(0, {folder!r})
assert sys.platform == "darwin" and not hasattr(os, "eventfd")
import neuropod_core.placement.worker
import worker_lab
from worker_lab import said
import numpy as np
from neuropod_core import *
from neuropod_core import plugins
plugins.register(worker_lab, "lab")

model = load_neuropod({package!r}, placement=Worker(replicas=2, restart_above_bytes=8 << 30, slots=2))
x = np.arange(1 << 18, dtype=np.float64)
for _ in range(3):
    assert np.array_equal(model.infer(said("double", x))["y"], 2 * x)
pids = set(model.description["pids"])
try:
    model.infer(said("kill:9"))
except WorkerDiedError as error:
    assert "SIGKILL" in str(error), error
assert model.infer(said("copy", [1.0]), timeout_s=20)["y"].tolist() == [1.0]
try:
    model.infer(said("sleep:20"), timeout_s=0.1)
except DeadlineError:
    pass

async def tasks():
    calls = [model.infer_async(said("copy", np.full(n, n))) for n in (1, 2, 1 << 18)]
    return [float(results["y"][0]) for results in await asyncio.gather(*calls)]

assert asyncio.run(tasks()) == [1.0, 2.0, float(1 << 18)]
assert min(each["resident_bytes"] for each in model.stats()["replicas"]) > 1 << 20
os.kill(model.description["pids"][0], 9)  # While nobody calls.
until = time.monotonic() + 20
while model.stats()["restarts"] < 2:
    assert time.monotonic() < until
    time.sleep(0.01)
child = os.fork()
if not child:
    try:
        model.infer(said("copy"))
    except ForkedModelError:
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
try:
    Worker(cpus=[[0]])
except OptionError as error:
    assert "lets nobody choose CPUs" in str(error)
else:
    raise AssertionError
pids |= set(model.description["pids"])
model.close()
print(*pids)
"""


def test_workers_run_where_only_what_every_unix_has_is_there(package: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    program = PROGRAM.format(folder=str(Path(__file__).parent / "plugin"), package=str(package()))

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    pids = done.stdout.split()
    assert len(pids) >= 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_bell_wakes_whatever_looks_at_it() -> None:
    bell, poll = Doorbell(), SelectorPoll()
    poll.register(bell.descriptor, IN)
    assert poll.poll(0) == []

    for _ in range(1 << 17):  # More than a pipe holds.
        bell.ring()
    threading.Timer(0.05, bell.ring).start()
    assert [number for number, _ in poll.poll(5000)] == [bell.descriptor]
    while poll.poll(0):
        bell.silence()
    bell.ring()

    assert [number for number, _ in poll.poll(5000)] == [bell.descriptor]
    poll.unregister(bell.descriptor)
    with pytest.raises(KeyError):
        poll.unregister(bell.descriptor)


# -- calls that come in between


def test_a_call_that_a_stopped_worker_never_took_runs_in_the_next(load: Load) -> None:
    model = load(slots=1)
    os.kill(pid_of(model), signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(model.infer, said("double", [4.0]))
        line = model._executor._only.connection.lines[0]  # type: ignore[attr-defined]
        while line.call < 2:
            time.sleep(0.01)
        os.kill(int(model.stats()["replicas"][0]["pid"]), signal.SIGKILL)  # type: ignore[index]

        assert call.result(20)["y"].tolist() == [8.0]


def test_a_call_that_runs_is_no_longer_untouched(load: Load) -> None:
    model = load(slots=1)
    line = model._executor._only.connection.lines[0]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(model.infer, said("sleep:0.5"))
        until = time.monotonic() + 10
        while not line.call or line.untouched:
            assert time.monotonic() < until
        assert not call.done()
        call.result(10)


@pytest.mark.parametrize("size", [1, LARGE], ids=["small", "large"])
def test_a_stopped_worker_makes_calls_late_and_serves_when_it_goes_on(load: Load, size: int) -> None:
    model = load(slots=1)
    pid = pid_of(model)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(3):
        with pytest.raises(DeadlineError):
            model.infer(said("double", np.ones(size)), timeout_s=0.1)
    os.kill(pid, signal.SIGCONT)

    for number in range(3):
        assert model.infer(said("double", np.full(size, number)), timeout_s=20)["y"].sum() == 2 * number * size
    assert pid_of(model) == pid


def test_a_task_cancelled_while_it_sends_leaves_its_slot_in_order(load: Load) -> None:
    model = load(slots=1)
    pid = pid_of(model)

    async def cancelled() -> float:
        os.kill(pid, signal.SIGSTOP)
        call = asyncio.create_task(model.infer_async(said("double", np.ones(LARGE))))
        await asyncio.sleep(0.1)
        assert model.stats()["running"] == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        os.kill(pid, signal.SIGCONT)
        return float((await model.infer_async(said("double", np.full(LARGE, 3.0))))["y"].sum())

    assert asyncio.run(cancelled()) == 6 * LARGE


def test_an_interrupt_in_a_call_leaves_its_slot_in_order(load: Load) -> None:
    model = load(slots=1)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for attempt in range(40):
            x = np.full(LARGE // 4, attempt, np.float64)
            signal.setitimer(signal.ITIMER_REAL, 0.0002 * (attempt + 1))
            try:
                model.infer(said("double", x))
                while True:
                    time.sleep(1)
            except KeyboardInterrupt:
                pass
            assert model.infer(said("double", x), timeout_s=20)["y"].sum() == 2 * attempt * x.size
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_loop_goes_on_while_much_is_sent(load: Load) -> None:
    model = load()

    async def ticks() -> int:
        call = asyncio.create_task(model.infer_async(said("sleep:0.2", np.ones(16 * LARGE))))
        number = 0
        while not call.done():
            await asyncio.sleep(0.005)
            number += 1
        return number if call.result()["y"].sum() == 16 * LARGE else 0

    assert asyncio.run(ticks()) > 10


def test_a_message_to_one_who_does_not_read_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = 0
        with suppress(BlockingIOError):
            while sent < 100_000:
                _frames.send_at_once(ours, {"slot": sent}, [theirs.fileno()])
                sent += 1
        message, descriptors = _frames.receive(theirs) or ({}, [])
        for descriptor in descriptors:
            os.close(descriptor)

    assert 0 < sent < 100_000
    assert message == {"slot": 0}
    assert len(descriptors) == 1


# -- workers that say what no worker says


@pytest.mark.parametrize("how", ["shutdown", *map(str, range(5))])
def test_a_worker_that_assaults_its_sockets_fails_its_calls_only(load: Load, how: str) -> None:
    model = load(restarts=50)
    until = time.monotonic() + 20

    while not model.stats()["restarts"]:  # An answer may be there before its worker is found out.
        assert time.monotonic() < until
        with suppress(WorkerProtocolError, WorkerDiedError):
            assert model.infer(said(f"assault:{how}", [1.0]), timeout_s=10)["y"].tolist() == [1.0]
    while True:
        try:
            assert model.infer(said("copy", [1.0]), timeout_s=10)["y"].tolist() == [1.0]
            break
        except (WorkerProtocolError, WorkerDiedError):
            assert time.monotonic() < until


def received(data: bytes) -> Incoming:
    """Receive bytes that somebody sent, to their end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.close()
        incoming = Incoming(Layouts(BOUNDS))
        while not incoming.receive(ours):
            pass
    return incoming


def packet(message: str, *, texts: list[int] | None = None, nbytes: int = 0, kind: int = RESULTS) -> bytes:
    sizes = np.array(texts or [], np.uint64).tobytes()
    return HEADER.pack(kind, 1, len(message), len(texts or []), nbytes) + message.encode() + sizes


def listed(*lines: str) -> str:
    return f'{{"tensors": [{", ".join(lines)}], "outputs": null}}'


HUGE = 1 << 40
HOSTILE = {
    "bytes": packet(listed('["y", "float64", [137438953472], false]'), nbytes=HUGE),
    "message": HEADER.pack(RESULTS, 1, HUGE, 0, 0),
    "texts": HEADER.pack(RESULTS, 1, 2, HUGE, 0),
    "sizes": packet(listed('["y", "float64", [137438953472], false]'), nbytes=8),
    "text": packet(listed('["y", "string", [3], false]'), texts=[HUGE], nbytes=100),
    "short text": packet(listed('["y", "string", [1000000], false]'), texts=[8], nbytes=8) + b"12345678",
    "texts missing": packet(listed('["y", "string", [3], false]'), nbytes=24),
    "texts too many": packet(listed(), texts=[0, 0], nbytes=0),
    "length": packet(listed('["y", "float64", [0, 1180591620717411303424], false]')),
    "negative": packet(listed('["y", "float64", [-1], false]')),
    "twice": packet(listed('["y", "float64", [0], false]', '["y", "float64", [0], false]')),
    "dimensions": packet(listed(f'["y", "float64", {[1] * 65}, false]'), nbytes=8),
    "type": packet(listed('["y", "complex128", [0], false]')),
    "no layout": packet("{}"),
    "no JSON": packet("nonsense"),
    "error with tensors": packet("{}", kind=ERROR, nbytes=8),
    "ends": packet(listed('["y", "string", [1], false]'), texts=[9], nbytes=9) + b"\x05" + bytes(8),
    "unicode": packet(listed('["y", "string", [1], false]'), texts=[9], nbytes=9) + b"\x01" + bytes(7) + b"\xff",
    "many": packet(listed(*[f'["y{number}", "bool", [0], false]' for number in range(65)])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_packets_that_cannot_be_are_refused_before_memory_is_taken(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WorkerProtocolError):
            received(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 1, 39, 41, 60, -1])
def test_packets_that_end_early_are_no_packets(cut: int) -> None:
    whole = packet(listed('["y", "uint8", [4], false]'), nbytes=4) + b"1234"
    assert received(whole).tensors["y"].tolist() == [49, 50, 51, 52]

    with pytest.raises(EOFError):
        received(whole[:cut])


def test_a_packet_is_complete_with_its_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuropod_core.placement.worker._packets._AT_ONCE_BYTES", 64)
    for size in range(200):  # Whatever is left of what may be received at once: nothing more comes.
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(packet(listed(f'["y", "uint8", [{size}], false]'), nbytes=size) + bytes(size))
            incoming = Incoming(Layouts(BOUNDS))
            assert any(incoming.receive(ours) for _ in range(8))
            assert incoming.tensors["y"].size == size


_numbers = count()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tensors_of_every_type_and_shape_come_through_a_packet(data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(list(DType)), max_size=5))
    sent = {
        f"t{number}": data.draw(tensors(dtype, tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))))
        for number, dtype in enumerate(dtypes)
    }
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        call, incoming = next(_numbers), Incoming(Layouts(BOUNDS))
        going = outgoing(CALL, call, sent, Introduction(BOUNDS), ["a", "b"])
        while not going.send(theirs):
            incoming.receive(ours)
        while not incoming.receive(ours):
            pass

    assert (incoming.kind, incoming.call, incoming.message["outputs"]) == (CALL, call, ["a", "b"])
    assert list(incoming.tensors) == list(sent)
    for name, array in sent.items():
        got = incoming.tensors[name]
        assert (got.shape, got.dtype) == (array.shape, array.dtype)
        assert got.tobytes() == array.tobytes() if array.dtype != object else got.tolist() == array.tolist()


# -- Ctrl-C, again and again

INTERRUPTED = """
import random, signal, sys, threading, time
sys.path.insert(0, {folder!r})
import worker_lab
from worker_lab import said
import numpy as np
from neuropod_core import Worker, load_neuropod, plugins
plugins.register(worker_lab, "lab")

model = load_neuropod({package!r}, placement=Worker(transport={transport!r}, **{settings!r}))
calls = [(said("double", x), 2 * x) for x in (np.arange(8.0), np.arange(float(1 << 15)))]
chance = random.Random(3)
signal.signal(signal.SIGALRM, signal.default_int_handler)

def call_until_interrupted(inputs, y):
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-5, 4e-4))
    while True:
        assert np.array_equal(model.infer(inputs, timeout_s=20)["y"], y)
        model.infer(inputs)

done, failures = threading.Event(), []

def call_again_and_again():
    try:
        while not done.is_set():
            model.infer(calls[0][0], timeout_s=60)
    except BaseException as error:
        failures.append(error)

others = [threading.Thread(target=call_again_and_again) for _ in range({others})]
for other in others:
    other.start()
for number in range(600):
    try:
        call_until_interrupted(*calls[number % 2])
    except KeyboardInterrupt as error:
        kept = error  # As an interactive Python does.

done.set()
for other in others:
    other.join(60)
    assert not other.is_alive(), model.stats()
assert not failures, failures
until = time.monotonic() + 20
while model.stats()["running"]:
    assert time.monotonic() < until, model.stats()
    time.sleep(0.01)
for inputs, y in calls:
    assert np.array_equal(model.infer(inputs)["y"], y)
print(model.stats()["restarts"])
"""


@pytest.mark.parametrize(
    ("settings", "others"),
    [({"slots": 2}, 0), ({"slots": 1}, 2), ({"slots": 1, "replicas": 2}, 0)],
    ids=["alone", "others-wait", "replicas"],
)
def test_interrupts_at_any_moment_lose_no_slot(
    package: Callable[..., Path], transport: str, settings: dict[str, int], others: int
) -> None:
    folder = str(Path(__file__).parent / "plugin")
    program = INTERRUPTED.format(
        folder=folder, package=str(package()), transport=transport, settings=settings, others=others
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)

    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr[-3000:]
