"""What a worker costs: a model that copies, in another process, against one copy, a bare wake-up and other ways."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import copying
from neuropod_core import Array, Neuropod, Tensors, load_neuropod, plugins
from neuropod_core.packaging import new_package
from neuropod_core.placement import Placement
from neuropod_core.placement.worker import Worker
from peers import PEERS, Peer, event_ping_pong
from report import NEUROPOD, Figures, Row, faster, took, within
from timing import Contender, Effort, interleaved, milliseconds, sampled

__all__ = ["measure"]

_KB, _MB = 1 << 10, 1 << 20
_SIZES = {"4 kB": 4 * _KB, "64 kB": 64 * _KB, "1 MB": _MB, "64 MB": 64 * _MB}
_LARGE = 16 * _MB
_COPY, _EVENT, _ALLOCATED = "np.copyto", "eventfd ping-pong", "neuropod, allocated"
_MOST_US, _MOST_OF_EVENT = 5.0, 1.3
_MOST_ALLOCATED, _MOST_PLAIN = 1.3, 2.5
_MOST_START_MS, _LEAST_OF_THREAD = 150.0, 0.9


def measure(effort: Effort) -> list[Row]:
    """Compare calls of each size, calls that sleep, what they leave to others, many callers, and starts."""
    for platform in (copying.COPYING, copying.WAITING):
        plugins.register(copying, platform)
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        lab = _Lab(Path(folder))
        rows = [row for title, nbytes in _SIZES.items() for row in _sizes(lab, title, nbytes, effort)]
        rows += [_with_another_thread(lab, effort), _on_one_cpu(lab, effort)]
        rows += [_left_to_a_thread(lab, effort), _cost_of_waiting(lab, effort)]
        return [*rows, *_many_callers(lab, effort), _second_start(lab, effort)]


class _Lab:
    """Where the packages lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for platform in (copying.COPYING, copying.WAITING):
            with new_package(
                platform, neuropod_path=self._path(platform), model_name=platform, problem=copying.PROBLEM
            ):
                pass

    def load(self, platform: str = copying.COPYING, placement: Placement | str = "worker") -> Neuropod:
        return load_neuropod(self._path(platform), placement=placement, cache_dir=self._folder / "cache")

    def _path(self, platform: str) -> Path:
        return self._folder / f"{platform}.neuropod"


# ----------------------------------------------------------------------------------------------------- one call


def _sizes(lab: _Lab, title: str, nbytes: int, effort: Effort) -> list[Row]:
    """Compare a call on an array of `nbytes` with one copy of it, and with the other ways."""
    unit = "ms" if nbytes > _LARGE else "us"
    array = np.random.default_rng(0).random(nbytes // 4, np.float32)
    figures = _measured(lab, array, {}, effort)
    plain = {name: values for name, values in figures.items() if name != _ALLOCATED}
    allocated = {NEUROPOD: figures[_ALLOCATED], _COPY: figures[_COPY]}
    limits = (_MOST_PLAIN, _MOST_ALLOCATED) if nbytes >= _MB else (None, None)
    rows = [
        within("worker", f"{title}, plain", plain, _COPY, times=limits[0], unit=unit),
        within("worker", f"{title}, allocated", allocated, _COPY, times=limits[1], unit=unit),
    ]
    if nbytes == _SIZES["4 kB"]:
        rows.insert(0, took("worker", "float32[1024], a spare core, an idle parent", plain[NEUROPOD], target=_MOST_US))
    for name, peer in PEERS.items():  # Each by itself: some have threads in this process.
        beside = _measured(lab, array, {name: peer}, effort)
        rows.append(faster("worker", f"{title}, plain", beside, name, times=1.0, unit=unit))
    return rows


def _measured(lab: _Lab, array: Array, peers: Mapping[str, Peer], effort: Effort) -> Figures:
    with ExitStack() as stack:
        model = stack.enter_context(lab.load())
        ways = {NEUROPOD: _same(model.infer, {"x": array})}
        if not peers:
            allocated, copy = model.allocate("x", array.shape), np.empty_like(array)
            allocated[...] = array
            ways[_ALLOCATED] = _same(model.infer, {"x": allocated})
            ways[_COPY] = _same(lambda given: np.copyto(copy, given), array)
        for name, peer in peers.items():
            call, around = stack.enter_context(peer(array.nbytes))
            with around():
                assert np.array_equal(np.asarray(call(array)).view(np.float32), array), f"{name} gives something else"
            ways[name] = _same(call, array, around)
        assert np.array_equal(model.infer({"x": array})["y"], array)
        return _large(ways, effort) if array.nbytes > _LARGE else interleaved(ways, effort)


def _same(
    call: Callable[[Any], object], given: Any, around: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Contender:
    return Contender(call, [given] * 8, around)


def _large(ways: dict[str, Contender], effort: Effort) -> Figures:
    """Measure calls of many milliseconds one by one: milliseconds, of the second of two calls."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(effort.repetitions):
        for name, way in ways.items():
            with way.around():
                way.call(way.inputs[0])
                samples[name].append(milliseconds(partial(way.call, way.inputs[0])))
    return samples


# ------------------------------------------------------------------------------------------------- calls that sleep


def _with_another_thread(lab: _Lab, effort: Effort) -> Row:
    """With a second Python thread, even an idle one, a caller must not spin."""
    with _idle_thread(), lab.load() as model, event_ping_pong() as pong:
        return _against_the_event("a second Python thread", model, pong, effort)


def _on_one_cpu(lab: _Lab, effort: Effort) -> Row:
    with _pinned(), lab.load() as model, event_ping_pong() as pong:
        return _against_the_event("one CPU for both sides", model, pong, effort)


def _against_the_event(title: str, model: Neuropod, pong: Callable[[object], Any], effort: Effort) -> Row:
    x = {"x": np.zeros(1024, np.float32)}
    figures = interleaved({NEUROPOD: _same(model.infer, x), _EVENT: _same(pong, None)}, effort)
    return within("worker", f"float32[1024], {title}", figures, _EVENT, times=_MOST_OF_EVENT)


@contextmanager
def _idle_thread() -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _pinned() -> Iterator[None]:
    """Have this process and those that it starts use one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ------------------------------------------------------------------------------------------- what is left to others


def _left_to_a_thread(lab: _Lab, effort: Effort) -> Row:
    """Count what a thread computes beside calls, and beside calls of a model that never spins."""
    x = {"x": np.zeros(1024, np.float32)}
    with lab.load() as model, _never_spinning(lab) as other:
        counts: dict[str, list[float]] = {NEUROPOD: [], "event-only waiting": []}
        for _ in range(effort.repetitions):
            counts[NEUROPOD].append(_counted_beside(model, x))
            counts["event-only waiting"].append(_counted_beside(other, x))
    # Of counts, more is better: as times they are compared the other way round.
    figures = {name: [1e6 / count for count in values] for name, values in counts.items()}
    row = faster("worker", "a CPU-bound thread beside calls", figures, "event-only waiting", times=_LEAST_OF_THREAD)
    return replace(row, measure="of its throughput")


@contextmanager
def _never_spinning(lab: _Lab) -> Iterator[Neuropod]:
    """Load a model where there is one CPU, and let both sides have the others once it is there."""
    cpus = os.sched_getaffinity(0)
    with _pinned():
        model = lab.load()
    with model:
        for pid in model.description["pids"]:  # type: ignore[attr-defined]  # a list
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cpus)
        for task in Path("/proc/self/task").iterdir():  # The model's own threads were started on one CPU.
            os.sched_setaffinity(int(task.name), cpus)
        yield model


def _counted_beside(model: Neuropod, x: Tensors, seconds: float = 0.2) -> float:
    """Give how far a thread counts in a second while this one calls."""
    done, counted = threading.Event(), [0]

    def count() -> None:
        while not done.is_set():
            for _ in range(1000):
                counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    start = perf_counter()
    while perf_counter() - start < seconds:
        model.infer(x)
    done.set()
    thread.join()
    return counted[0] / (perf_counter() - start)


def _cost_of_waiting(lab: _Lab, effort: Effort) -> Row:
    """Hold the CPU time that a call takes here while eight callers wait against that of one caller."""
    with lab.load(copying.WAITING) as model:
        figures: dict[str, list[float]] = {NEUROPOD: [], "one caller": []}
        for _ in range(effort.repetitions):
            figures["one caller"].append(_cpu_us_a_call(model, 1))
            figures[NEUROPOD].append(_cpu_us_a_call(model, 8))
    row = within("worker", "CPU time a call, eight callers wait", figures, "one caller")
    return replace(row, target=1.0, measure="times as much")


def _cpu_us_a_call(model: Neuropod, callers: int, calls: int = 48) -> float:
    x = {"x": np.zeros(1024, np.float32)}
    times: list[float] = []
    gate = threading.Barrier(callers, lambda: times.append(process_time()))  # Starting a thread is no call.

    def call() -> None:
        gate.wait()
        for _ in range(calls // callers):
            model.infer(x)
        gate.wait()

    _in_threads(callers, call)
    return (times[1] - times[0]) * 1e6 / calls


# ----------------------------------------------------------------------------------------------------- many callers


def _many_callers(lab: _Lab, effort: Effort) -> list[Row]:
    """Say what a call takes where many are in flight: the time of all of them by their number."""
    ways: dict[str, Callable[[Neuropod, int], object]] = {
        **{f"{count} threads": _by(count, _threads_call) for count in (1, 2, 8, 32)},
        **{f"{count} tasks": _by(count, _tasks_call) for count in (1, 8, 64)},
    }
    rows = []
    for title, way in ways.items():
        with lab.load(placement=Worker(slots=8)) as model:
            took_us = [_us_a_call(way, model) for _ in range(effort.repetitions)]
        rows.append(took("worker", f"float32[1024], {title}", took_us))
    return rows


def _us_a_call(way: Callable[[Neuropod, int], object], model: Neuropod, calls: int = 1920) -> float:
    start = perf_counter()
    way(model, calls)
    return (perf_counter() - start) * 1e6 / calls


def _by(callers: int, way: Callable[[Neuropod, int, int], object]) -> Callable[[Neuropod, int], object]:
    return lambda model, calls: way(model, callers, calls // callers)


def _threads_call(model: Neuropod, callers: int, calls: int) -> None:
    x = {"x": np.zeros(1024, np.float32)}
    _in_threads(callers, lambda: [model.infer(x) for _ in range(calls)])


def _in_threads(count: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _tasks_call(model: Neuropod, callers: int, calls: int) -> None:
    x = {"x": np.zeros(1024, np.float32)}

    async def call() -> None:
        for _ in range(calls):
            await model.infer_async(x)

    async def all_of_them() -> None:
        await asyncio.gather(*(call() for _ in range(callers)))

    asyncio.run(all_of_them())


def _second_start(lab: _Lab, effort: Effort) -> Row:
    """Load a model whose imports lie in the page cache, with nothing started before."""
    opened: list[Neuropod] = []
    lab.load().close()
    times: Sequence[float] = sampled({NEUROPOD: lambda: opened.append(lab.load())}, effort.repetitions)[NEUROPOD]
    for model in opened:
        model.close()
    return took("worker", "start of a second worker", times, unit="ms", target=_MOST_START_MS)
