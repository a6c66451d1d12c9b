"""The faults: what is done to workers, parents and the pool, one function each."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from census import descendants, lives
from load import Load, Record

from neuropod_core import (
    DeadlineError,
    ForkedModelError,
    InferenceError,
    Neuropod,
    SharedMemoryError,
    WorkerDiedError,
)

RECOVERY_S = 60.0
_HERE = Path(__file__).parent


@dataclass
class Stage:
    """Where faults happen: a model under load."""

    model: Neuropod
    load: Load
    record: Record
    start: Callable[[], Neuropod]

    def poison(self, command: str, *expected: type[Exception], timeout_s: float = 5.0) -> bool:
        """Make a call that breaks something; tell whether it got as far as the worker."""
        inputs = {"ticket": np.array(-1), "command": np.array(command, object)}
        try:
            self.model.infer(inputs, timeout_s=timeout_s)
        except DeadlineError as error:  # Late before its turn, it has done nothing.
            return DeadlineError in expected and "busy with it" in str(error)
        except expected:
            return True
        except WorkerDiedError:  # Something else befell the worker, or the machine is slow.
            return False
        except Exception as error:  # noqa: BLE001 - not what this fault gives
            self.record.complain(f"{command} raised {type(error).__name__}: {error}"[:500])
            return False
        self.record.complain(f"{command} was answered")
        return False

    @property
    def restarts(self) -> int:
        stats: Any = self.model.stats()
        return int(stats["restarts"])

    def recovered(self, restarts: int = 0) -> bool:
        """Wait until every replica is ready, after at least so many restarts."""
        until = time.monotonic() + RECOVERY_S + 4 * self.record.lag.worst_s
        while time.monotonic() < until:
            stats: Any = self.model.stats()
            if stats["restarts"] >= restarts and all(replica["ready"] for replica in stats["replicas"]):
                return True
            time.sleep(0.002)
        self.record.complain(f"no recovery within {RECOVERY_S:g} s")
        return False


Fault = Callable[[Stage, random.Random], float | None]
"""Does it, waits until everything is well again, and gives the seconds that took; None where nothing had to recover."""


def _sigkill(stage: Stage, chance: random.Random) -> float | None:
    time.sleep(chance.random() * 0.02)
    before = stage.restarts
    replicas: Any = stage.model.stats()["replicas"]
    pid = chance.choice(replicas)["pid"]
    if pid is None:
        return None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return _until_well(stage, before + 1)


def _command(text: str, *expected: type[Exception], timeout_s: float = 5.0) -> Fault:
    """Give the fault in which a call ends its worker."""

    def fault(stage: Stage, chance: random.Random) -> float | None:
        before = stage.restarts
        command = text.format(code=chance.randrange(1, 120), signal=chance.choice((6, 9, 11, 15)))
        reached = stage.poison(command, *expected, timeout_s=timeout_s)
        return _until_well(stage, before + reached)

    return fault


def _until_well(stage: Stage, restarts: int) -> float | None:
    started = time.monotonic()
    return time.monotonic() - started if stage.recovered(restarts) else None


def _survives(text: str) -> Fault:
    """Give the fault that fails its call and leaves the worker alive."""

    def fault(stage: Stage, chance: random.Random) -> float | None:
        stage.poison(text, InferenceError)
        stage.recovered()
        return None

    return fault


def _full_pool(stage: Stage, chance: random.Random) -> float | None:
    executor: Any = stage.model._executor
    pool, hogs = executor._transport.pool, []
    with suppress(SharedMemoryError, DeadlineError):
        while True:  # Until there is no room: callers take their part meanwhile, and nobody is waited for.
            hogs.append(pool.lend(pool.allocate(4 << 20, time.monotonic())))
    time.sleep(0.05 + chance.random() * 0.3)
    hogs.clear()
    return None


def _fork(stage: Stage, chance: random.Random) -> float | None:
    child = os.fork()
    if not child:
        try:
            stage.model.infer({"ticket": np.array(1)})
        except ForkedModelError:
            os._exit(0)
        finally:
            os._exit(1)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                stage.record.complain(f"the child of a fork ended with {status}")
            return None
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    stage.record.complain("the child of a fork hung")
    return None


def _closed_model(stage: Stage, chance: random.Random) -> float | None:
    started = time.monotonic()
    stage.model.close()
    stage.model = stage.start()
    stage.load.resume(stage.model)
    return time.monotonic() - started


def _parent_kill(stage: Stage, chance: random.Random) -> float | None:
    """End another parent, under its own load, and see that it takes its workers along."""
    command = [sys.executable, str(_HERE), "--victim"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
        assert victim.stdout is not None
        if victim.stdout.readline() != b"ready\n":
            stage.record.complain("the other parent did not start")
        time.sleep(chance.random() * 0.3)
        below = list(descendants(victim.pid))
        started = time.monotonic()
        victim.kill()
    until = started + 10
    while any(map(lives, below)):
        if time.monotonic() > until:
            stage.record.complain(f"workers {[pid for pid in below if lives(pid)]} outlived their parent")
            return None
        time.sleep(0.002)
    return None


FAULTS: dict[str, tuple[int, Fault]] = {
    "SIGKILL at any moment": (30, _sigkill),
    "a signal in a call": (10, _command("signal:{signal}", WorkerDiedError)),
    "segmentation fault": (8, _command("segfault", WorkerDiedError)),
    "os._exit": (8, _command("exit:{code}", WorkerDiedError)),
    "sys.exit": (4, _command("leave:{code}", WorkerDiedError)),
    "abort": (4, _command("abort", WorkerDiedError)),
    "hang": (6, _command("sleep:600", DeadlineError, timeout_s=0.2)),
    "SIGSTOP": (4, _command("stop", DeadlineError, timeout_s=0.2)),
    "closed descriptors": (8, _command("close", WorkerDiedError, DeadlineError, timeout_s=0.5)),
    "out of memory": (6, _survives(f"allocate:{8 << 30}")),
    "exception": (4, _survives("raise:something")),
    "full pool": (4, _full_pool),
    "fork of the parent": (2, _fork),
    "close under load": (1, _closed_model),
    "kill of the parent": (1, _parent_kill),
}
"""Name -> how often among a hundred, and what it does."""


def drawn(seed: int, number: int) -> tuple[str, Fault, random.Random]:
    """Give the fault of that number: the same one whenever it is asked for."""
    chance = random.Random(f"{seed}:{number}")
    name = chance.choices(list(FAULTS), [weight for weight, _ in FAULTS.values()])[0]
    return name, FAULTS[name][1], chance
