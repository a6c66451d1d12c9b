"""What callers of a worker cost while they wait: one against eight, and a busy thread beside them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from neuropod_core import Neuropod, Problem, Worker, load_neuropod
from neuropod_core.packagers import create_python_neuropod
from neuropod_core.placement.worker import _shared_memory
from report import NEUROPOD, Row, added, faster
from timing import Effort

__all__ = ["measure"]

SUITE = "waiting"
CODE = Path(__file__).parent.parent / "python_models"
WAIT_S = 0.2
EIGHT_MAY_ADD_MS = 2.0
KEPT = 0.9
ONE, EVENTS = "one caller", "event-only waiting"
_PROBLEM = Problem.of({"seconds": "float64[]"}, {"y": "float64[]"}, name="wait")
_LOOPS = 20_000


def measure(effort: Effort) -> list[Row]:
    """Measure both."""
    rounds = max(effort.rounds // 5, 5)
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as name:
        package = Path(name) / "wait.neuropod"
        _write(package)
        with load_neuropod(package, placement=Worker(slots=8), trust="code") as model:
            callers: dict[str, list[float]] = {ONE: [], NEUROPOD: []}
            for _ in range(rounds):
                callers[ONE].append(_cpu_ms(model, 1))
                callers[NEUROPOD].append(_cpu_ms(model, 8))
        return [
            added(SUITE, f"CPU of eight callers in {WAIT_S:g} s", callers, fixed=EIGHT_MAY_ADD_MS, unit="ms"),
            faster(SUITE, "a busy thread beside a caller", _busy(package, rounds), EVENTS, times=KEPT),
        ]


def _write(path: Path) -> None:
    create_python_neuropod(
        neuropod_path=path,
        model_name="wait",
        entrypoint_package="models.numpy_models",
        entrypoint="wait",
        code_path_spec=[{"python_root": CODE, "dirs_to_package": ["models"]}],
        problem=_PROBLEM,
        package_as_zip=False,
        writes_inputs=False,
        thread_safe=True,
    )


def _cpu_ms(model: Neuropod, callers: int) -> float:
    """Give the CPU time of this process while so many threads wait for one long call each."""
    call = partial(model.infer, {"seconds": np.array(WAIT_S)})
    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(lambda _: None, range(callers)))  # All are there before the clock starts.
        before = time.process_time()
        list(threads.map(lambda _: call(), range(callers)))
        return (time.process_time() - before) * 1e3


def _busy(package: Path, rounds: int) -> dict[str, list[float]]:
    """Give the microseconds of one turn of a busy thread, while another one calls as fast as it can."""
    with _model(package, spins=True) as spinning, _model(package, spins=False) as sleeping:
        figures: dict[str, list[float]] = {NEUROPOD: [], EVENTS: []}
        for _ in range(rounds):
            for name, model in ((NEUROPOD, spinning), (EVENTS, sleeping)):
                with _calling(partial(model.infer, {"seconds": np.array(0.0)})):
                    figures[name].append(_turn_us())
        return figures


@contextmanager
def _model(package: Path, *, spins: bool) -> Iterator[Neuropod]:
    allowed = _shared_memory.may_spin() and spins
    with (
        patch.object(_shared_memory, "may_spin", lambda: allowed),
        load_neuropod(package, placement="worker", trust="code") as model,
    ):
        model.infer({"seconds": np.array(0.0)})
        yield model


@contextmanager
def _calling(call: Callable[[], object]) -> Iterator[None]:
    ended = threading.Event()

    def calls() -> None:
        while not ended.is_set():
            call()

    thread = threading.Thread(target=calls)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _turn_us() -> float:
    turns, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < WAIT_S:
        sum(range(_LOOPS))
        turns += 1
    return spent / turns * 1e6
