"""Mixed load: threads and tasks that call all the time, and look at every answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from neuropod_core import (
    DeadlineError,
    InferenceError,
    ModelClosedError,
    Neuropod,
    SharedMemoryError,
    Tensors,
    WorkerDiedError,
)

SLACK_S = 2.0
"""How late an error may come after its deadline, on a machine that has other things to do."""

_EXPECTED = (DeadlineError, SharedMemoryError, WorkerDiedError, ModelClosedError)
_SIZES = (0, 1, 7, 1000, 8192, 8193, 50_000, 131_072, 400_000)
_tickets = itertools.count(1)


class Lag:
    """How long a thread that sleeps for a moment is kept waiting at worst, by the machine and by other threads.

    What comes late by no more than that is not late through us: the machines that run this have other things to do.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque([0.0], maxlen=600)
        self._since = time.monotonic()
        threading.Thread(target=self._measure, daemon=True).start()

    @property
    def worst_s(self) -> float:
        return max(time.monotonic() - self._since - 0.05, *self._recent.copy())

    def _measure(self) -> None:
        while True:
            before = self._since = time.monotonic()
            time.sleep(0.05)
            self._recent.append(time.monotonic() - before - 0.05)


@dataclass
class Record:
    """What became of the calls."""

    outcomes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    latest_s: float = 0.0
    lag: Lag = field(default_factory=Lag)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def complain(self, what: str) -> None:
        self.count("WRONG")
        with self._lock:
            if len(self.complaints) < 200:
                self.complaints.append(what)

    def late(self, by_s: float, what: str) -> None:
        by_s -= self.lag.worst_s
        self.latest_s = max(self.latest_s, by_s)
        if by_s > SLACK_S:
            self.complain(f"{by_s:.1f} s past its deadline: {what}")


class Call:
    """One call with its own ticket, and what its answer has to be."""

    def __init__(self, model: Neuropod, chance: random.Random, lag: Lag) -> None:
        self.ticket, self.timeout_s = next(_tickets), chance.choice((2.0, 3.0, 4.0)) + 2 * lag.worst_s
        self.inputs: Tensors = {"ticket": np.array(self.ticket)}
        self.x, self.words = np.zeros(0), list[str]()
        kind = chance.random()
        if kind < 0.75:
            self.x = self._numbers(model, chance, chance.choice(_SIZES), allocated=kind < 0.15)
            self.inputs["x"] = self.x
        if kind > 0.6:
            self.words = [
                chance.choice(("", "a", "ä", "\N{SNOWMAN}" * 30)) for _ in range(chance.choice((0, 1, 40, 3000)))
            ]
            self.inputs["words"] = np.array(self.words, object)

    def _numbers(self, model: Neuropod, chance: random.Random, count: int, *, allocated: bool) -> np.ndarray:
        if allocated:
            with suppress(SharedMemoryError):
                array = model.allocate("x", (count,))
                array[...] = self.ticket
                return array
        return np.full(count, float(chance.randrange(1000)))

    def wrong_with(self, results: Tensors) -> str:
        """Say what is wrong with an answer: nothing, most often."""
        if int(results["ticket"]) != self.ticket:
            return f"call {self.ticket} got the answer of {int(results['ticket'])}"
        if not np.array_equal(results["y"], self.x + self.ticket):
            return f"call {self.ticket} of {self.x.size} numbers got other numbers"
        if results["words"].tolist() != [f"{self.ticket}:{word}" for word in self.words]:
            return f"call {self.ticket} of {len(self.words)} words got other words"
        return ""


class Load:
    """Callers of one model: `threads` of them in threads, `tasks` in one event loop; each rests between its calls."""

    def __init__(self, record: Record, threads: int = 4, tasks: int = 4, rest_s: float = 0.03) -> None:
        self.record, self.model, self._rest_s = record, None, rest_s
        self._stop, self._go = threading.Event(), threading.Event()
        self._busy, self._quiet = 0, threading.Condition()
        self.beats = dict.fromkeys([f"thread {n}" for n in range(threads)] + [f"task {n}" for n in range(tasks)], 0.0)
        self._threads = [
            threading.Thread(target=self._calls, args=(f"thread {n}",), daemon=True) for n in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._tasks, args=(tasks,), daemon=True))

    model: Neuropod | None

    def start(self, model: Neuropod) -> None:
        """Begin to call."""
        self.model = model
        self._go.set()
        for thread in self._threads:
            thread.start()

    def pause(self, timeout_s: float = 30.0) -> bool:
        """Let no new call begin, and wait until all that run are through and dropped."""
        self._go.clear()
        with self._quiet:
            return self._quiet.wait_for(lambda: self._busy == 0, timeout_s)

    def resume(self, model: Neuropod) -> None:
        """Go on, perhaps with another model."""
        self.model = model
        self._go.set()

    def stop(self, timeout_s: float = 30.0) -> bool:
        """End every caller; tell whether they did."""
        self._stop.set()
        self._go.set()
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def stuck(self, longer_than_s: float) -> list[str]:
        """Name the callers whose call should have ended by now."""
        now = time.monotonic()
        return [name for name, since in list(self.beats.items()) if since and now - since > longer_than_s]

    def beat(self) -> None:
        """Forget since when callers wait."""
        for name, since in list(self.beats.items()):
            if since:
                self.beats[name] = time.monotonic()

    # -- one caller

    def _turns(self, name: str) -> Iterator[random.Random]:
        chance = random.Random(name)
        while not self._stop.is_set():
            with self._quiet:
                busy = self._go.is_set() and not self._stop.is_set()
                self._busy += busy
            if not busy:
                yield chance  # Whoever cannot call rests.
                continue
            self.beats[name] = time.monotonic()
            try:
                yield chance
            finally:
                self.beats[name] = 0.0
                with self._quiet:
                    self._busy -= 1
                    self._quiet.notify_all()

    def _calls(self, name: str) -> None:
        held: deque[tuple[Call, Tensors]] = deque(maxlen=3)
        for chance in self._turns(name):
            if not self.beats[name]:
                self._look_again(held, chance)
                self._go.wait(0.05)
                continue
            model = self.model
            assert model is not None
            call = Call(model, chance, self.record.lag)
            started = time.monotonic()
            try:
                results = model.infer(call.inputs, timeout_s=call.timeout_s)
            except Exception as error:  # noqa: BLE001 - judged below
                self._judge(call, error, started)
            else:
                self._taken(call, results, started)
                held.append((call, results))
                del results
            self._look_again(held, chance)
            del call
            time.sleep(chance.random() * self._rest_s)

    def _look_again(self, held: deque[tuple[Call, Tensors]], chance: random.Random) -> None:
        """Results that are kept must not change, whatever the workers do meanwhile."""
        if held and (chance.random() < 0.3 or not self._go.is_set()):
            for call, results in held:
                if wrong := call.wrong_with(results):
                    self.record.complain(f"later: {wrong}")
            held.clear()

    def _tasks(self, count: int) -> None:
        async def everyone() -> None:
            await asyncio.gather(*(self._task(f"task {number}") for number in range(count)))

        asyncio.run(everyone())

    async def _task(self, name: str) -> None:
        for chance in self._turns(name):
            if not self.beats[name]:
                await asyncio.sleep(0.02)
                continue
            model = self.model
            assert model is not None
            call = await asyncio.to_thread(Call, model, chance, self.record.lag)  # It may wait for memory.
            started = time.monotonic()
            running = asyncio.ensure_future(model.infer_async(call.inputs, timeout_s=call.timeout_s))
            try:
                if chance.random() < 0.05:
                    await asyncio.sleep(chance.random() * 0.01)
                    running.cancel()
                results = await running
            except asyncio.CancelledError:
                self.record.count("cancelled")
            except Exception as error:  # noqa: BLE001 - judged below
                self._judge(call, error, started)
            else:
                self._taken(call, results, started)
                del results
            del call, running
            await asyncio.sleep(chance.random() * self._rest_s)

    # -- the verdict

    def _taken(self, call: Call, results: Tensors, started: float) -> None:
        self.record.late(time.monotonic() - started - call.timeout_s, f"the answer of call {call.ticket}")
        if wrong := call.wrong_with(results):
            self.record.complain(wrong)
        self.record.count("answered")

    def _judge(self, call: Call, error: Exception, started: float) -> None:
        self.record.late(time.monotonic() - started - call.timeout_s, f"{type(error).__name__} of call {call.ticket}")
        if not isinstance(error, _EXPECTED) or not isinstance(error, InferenceError):
            self.record.complain(f"call {call.ticket} raised {type(error).__name__}: {error}"[:500])
        self.record.count(type(error).__name__)
