"""Runs a plan of faults, looks for what was lost, crossed or leaked, and remembers how far it came."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import fault_lab
from census import Census, resident_bytes
from kinds import FAULTS, Stage, drawn
from load import Load, Record

from neuropod_core import Neuropod, Worker, load_neuropod

POOL_BYTES = 64 << 20
_HANG_S = 60.0
_STALL_S = 5.0
_LOOK_EVERY = 25


@dataclass
class State:
    """How far a plan came; written to a file, so that a run that was broken off goes on."""

    seed: int
    done: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    resident_bytes: list[tuple[int, int]] = field(default_factory=list)
    latest_s: float = 0.0

    @classmethod
    def read(cls, path: Path | None, seed: int) -> State:
        """Go on where the file of the same seed ends, or begin."""
        if path is None or not path.exists():
            return cls(seed)
        state = cls(**json.loads(path.read_text()))
        if state.seed != seed:
            raise SystemExit(f"{path} belongs to the seed {state.seed}, not to {seed}; remove it or pass that seed")
        state.faults, state.outcomes = Counter(state.faults), Counter(state.outcomes)
        return state

    def write(self, path: Path) -> None:
        """Replace the file as a whole: a run may be killed at any moment."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(vars(self)))
        new.replace(path)


@dataclass(frozen=True)
class Plan:
    """What to do: so many faults, or as many as fit into the time."""

    faults: int
    seed: int = 0
    seconds: float = float("inf")
    replicas: int = 2
    threads: int = 4
    tasks: int = 4
    rest_s: float = 0.03
    state: Path | None = None


def run(plan: Plan) -> dict[str, Any]:
    """Do the faults that are left of the plan; give the report."""
    state, began = State.read(plan.state, plan.seed), time.monotonic()
    before_s = state.seconds
    record = Record(state.outcomes, state.complaints, state.latest_s)
    with model_files() as package:
        before = _census()
        load = Load(record, plan.threads, plan.tasks, plan.rest_s)

        def start() -> Neuropod:
            return _loaded(package, plan.replicas)

        stage = Stage(start(), load, record, start)
        load.start(stage.model)
        watch = _Watch(load)
        while state.done < plan.faults and time.monotonic() - began < plan.seconds:
            _one(stage, state, plan.seed)
            if state.done % _LOOK_EVERY == 0 or state.done == plan.faults:
                _look(stage, state, plan)
            state.seconds, state.latest_s = before_s + time.monotonic() - began, record.latest_s
            if plan.state:
                state.write(plan.state)
        watch.end()
        _finish(stage, before)
    if plan.state:
        state.write(plan.state)
    return report(state, plan)


def victim() -> None:
    """Be the parent that is killed: load, call, say so, and wait for it."""
    with model_files() as package:
        model = _loaded(package, 2)
        Load(Record(), 2, 2).start(model)
        time.sleep(0.2)
        print("ready", flush=True)  # noqa: T201 - to the harness
        while True:
            time.sleep(1)


@contextmanager
def model_files() -> Iterator[Path]:
    """Write the package of the model where it goes away again."""
    fault_lab.register()
    with tempfile.TemporaryDirectory(prefix="neuropod-faults-") as folder:
        os.environ["NEUROPOD_CACHE_DIR"] = str(Path(folder, "cache"))
        yield fault_lab.write_package(Path(folder))


def _loaded(package: Path, replicas: int) -> Neuropod:
    placement = Worker(
        replicas=replicas,
        slots=4,
        restarts=1 << 30,
        kills_late=True,
        shared_memory_bytes=POOL_BYTES,
        memory_limit_bytes=2 << 30,
        threads=1,
    )
    return load_neuropod(package, placement=placement)


def _one(stage: Stage, state: State, seed: int) -> None:
    name, fault, chance = drawn(seed, state.done)
    recovery_s = fault(stage, chance)
    state.faults[name] += 1
    if recovery_s is not None:
        state.recoveries_s.setdefault(name, []).append(round(recovery_s, 4))
    state.done += 1


# -- looking for leaks


def _census() -> Census:
    gc.collect()
    return Census.now()


def _look(stage: Stage, state: State, plan: Plan) -> None:
    """With nobody calling: everything is as it was, and every byte of the pool is back."""
    record = stage.record
    if not stage.load.pause():
        record.complain(f"calls do not end: {stage.load.stuck(0)}")
    if stage.recovered():
        time.sleep(0.1)  # Callers drop the results that they hold, workers settle.
        _look_closely(stage, plan)
    replicas: Any = stage.model.stats()["replicas"]
    state.resident_bytes.append((resident_bytes(), sum(resident_bytes(replica["pid"]) for replica in replicas)))
    stage.load.resume(stage.model)


def _pool_of(model: Neuropod) -> Any:
    executor: Any = model._executor
    return executor._transport.pool


def _look_closely(stage: Stage, plan: Plan) -> None:
    record, pool = stage.record, _pool_of(stage.model)
    until = time.monotonic() + 5
    while True:
        gc.collect()
        with pool._lock:
            pool._clear_shelves()
            pool._collect()
        census = _census()
        wrong = {
            "bytes": pool.used_bytes,
            "held bytes": pool.lent_bytes,
            "processes": census.processes - plan.replicas,
            "segments": census.segments - plan.replicas - len(pool.segments),
        }
        if not any(wrong.values()) or time.monotonic() > until:
            break
        time.sleep(0.05)
    leaks = {name: count for name, count in wrong.items() if count}
    if leaks:
        record.complain(f"leaked: {leaks}")


def _finish(stage: Stage, before: Census) -> None:
    record = stage.record
    if not stage.load.stop():
        record.complain(f"callers do not end: {stage.load.stuck(0)}")
    stage.model.close()
    stage.load.model = None
    del stage.model
    until = time.monotonic() + 5
    while (more := _census().more_than(before)) and time.monotonic() < until:
        time.sleep(0.05)
    if more:
        record.complain(f"left at the end: {more}")


class _Watch:
    """Says so, with every stack, if a caller hangs; and ends the run, since it could not go on."""

    def __init__(self, load: Load) -> None:
        self._load, self._ended = load, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(1):
            before, looked = looked, time.monotonic()
            if looked - before > _STALL_S:  # The machine stood still, or was suspended: nobody could call.
                self._load.beat()
            elif stuck := self._load.stuck(_HANG_S):
                print(f"hang: {stuck}", file=sys.stderr)  # noqa: T201 - the last words of the run
                faulthandler.dump_traceback(all_threads=True)
                os._exit(3)


# -- the report


def report(state: State, plan: Plan) -> dict[str, Any]:
    """Sum up a state."""
    every = [second for seconds in state.recoveries_s.values() for second in seconds]
    return {
        "seed": state.seed,
        "faults": state.done,
        "of": plan.faults,
        "minutes": round(state.seconds / 60, 2),
        "replicas": plan.replicas,
        "kinds": {name: _kind(state, name) for name in FAULTS},
        "recovery_s": _spread(every),
        "calls": dict(state.outcomes),
        "latest_s": round(state.latest_s, 3),
        "resident_mb": [[round(part / 1e6, 1) for part in pair] for pair in state.resident_bytes],
        "complaints": list(state.complaints),
    }


def as_text(report: dict[str, Any]) -> str:
    """Give the report as a table."""
    lines = [f"{'fault':24}{'times':>7}{'recovery p50':>14}{'p99':>9}{'worst':>9}"]
    rows = {**report["kinds"], "all": {"times": report["faults"], **report["recovery_s"]}}
    for name, row in rows.items():
        times = "".join(f"{_shown(row.get(key)):>{width}}" for key, width in (("p50", 14), ("p99", 9), ("worst", 9)))
        lines.append(f"{name:24}{row['times']:>7}{times}")
    calls = ", ".join(f"{count} {name}" for name, count in sorted(report["calls"].items()))
    lines += ["", f"calls: {calls}", f"latest error or answer: {report['latest_s']:.2f} s past its deadline"]
    if report["resident_mb"]:
        first, last = report["resident_mb"][0], report["resident_mb"][-1]
        lines.append(f"resident: parent {first[0]} -> {last[0]} MB, workers {first[1]} -> {last[1]} MB")
    lines += [f"{report['faults']} of {report['of']} faults in {report['minutes']:g} minutes, seed {report['seed']}"]
    return "\n".join([*lines, *(f"WRONG: {complaint}" for complaint in report["complaints"])])


def _kind(state: State, name: str) -> dict[str, Any]:
    return {"times": state.faults[name], **_spread(state.recoveries_s.get(name, []))}


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return {"p50": round(cuts[49], 4), "p99": round(cuts[98], 4), "worst": max(seconds)}


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f} s"
