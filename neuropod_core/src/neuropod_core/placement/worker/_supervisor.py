"""Keeps one worker alive: starts it, watches it, says how it died, and starts the next."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from neuropod_core.errors import (
    ModelClosedError,
    NeuropodError,
    PackageIntegrityError,
    SharedMemoryError,
    WorkerDiedError,
    WorkerProtocolError,
    WorkerStartError,
    shown,
    worded,
)
from neuropod_core.placement.worker import _frames, _spin
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._connection import Connection, Transport
from neuropod_core.placement.worker._open_files import REMEDY, is_at_limit, limit_error, was_at_limit
from neuropod_core.placement.worker._process import Process
from neuropod_core.placement.worker._recipe import Recipe
from neuropod_core.placement.worker._travel import error_from

GRACE_S = 5.0
_LAST_BREATH_S = 2.0
_HUNG_UP_S = 1.0
"""How long the end of a process may take after that of its socket."""
_FIRST_BACK_OFF_S = 0.05
_LONGEST_BACK_OFF_S = 10.0
_HEALTHY_S = 30.0
_RETIREMENT_S = 300.0
"""How long calls may run on in a worker that is to be replaced."""
_LIMITS_LOOK_S = 1.0
_ABANDONED_LOOK_S = 0.05

_logger = logging.getLogger("neuropod.worker")


class Limits:
    """When a supervisor starts a worker anew, and when it gives up."""

    def __init__(
        self, start_timeout_s: float, restarts: int, after_calls: int | None, above_bytes: int | None, slots: int | None
    ) -> None:
        self.start_timeout_s, self.restarts, self.slots = start_timeout_s, restarts, slots
        self.after_calls, self.above_bytes = after_calls, above_bytes

    @property
    def replaces(self) -> bool:
        """Whether a worker is replaced that did nothing wrong."""
        return self.after_calls is not None or self.above_bytes is not None


class Tally:
    """Counts of the calls that gave results, together and by the bits of their nanoseconds."""

    def __init__(self) -> None:
        self.calls = 0
        self.times = [0] * 64

    def add(self, connection: Connection) -> Tally:
        """Count the calls of a connection as well."""
        for line in connection.lines:
            self.calls += sum(line.times)
            self.times = [ours + theirs for ours, theirs in zip(self.times, line.times, strict=True)]
        return self


class Supervisor:
    """One worker and those that come after it.

    Attributes
    ----------
    connection
        To the worker that is ready; None while there is none.
    failure
        Why there will be none any more.
    ready
        What the first worker said of the model: ``stateful``, ``description``.
    restarts
        How often a worker was started after the first.
    """

    def __init__(self, recipe: Recipe, limits: Limits, transport: Transport, changed: threading.Condition) -> None:
        self.connection: Connection | None = None
        self.failure: NeuropodError | None = None
        self.ready: dict[str, Any] = {}
        self.restarts = 0
        self.process: Process | None = None
        self._recipe, self._limits, self._transport, self._changed = recipe, limits, transport, changed
        self._closing = threading.Event()
        self._past, self._bell = Tally(), Doorbell()
        self._faults, self._born = 0, 0.0
        self._retires = False  # Whether the last worker was replaced as the limits say.
        self._watching: Connection | None = None  # `connection`, and after that until its callers know of the end.
        self._serves = False  # Whether the worker that runs listens, so that it can end by itself.
        # The kernel ends a worker when the thread that started it ends: so that thread lives as long as the model.
        name = f"neuropod-{recipe.name}"
        self._thread = threading.Thread(target=_spin.registered(self._run), name=name, daemon=True)
        self._thread.start()

    def begin_to_close(self) -> None:
        """Let the worker end; `close` waits for that."""
        self._closing.set()
        self.wake()

    def close(self) -> None:
        """End the worker and the thread."""
        self.begin_to_close()
        if threading.current_thread() is not self._thread:
            self._thread.join(GRACE_S + 5)

    def wake(self) -> None:
        """Have the thread look around."""
        self._bell.ring()

    def forked(self) -> None:
        """In the child of a fork: let go of the parent's worker, without a word to it."""
        _spin.own_threads.clear()
        process, self.process, self.connection = self.process, None, None
        if process is not None:
            process.forget()

    def dismiss(self, connection: Connection, why: str) -> None:
        """End the worker that runs now, and let nobody in before the next one is there."""
        self._publish(None)
        connection.gate.close()
        process = self.process
        if process is not None:
            process.kill(why)

    def tally(self) -> Tally:
        """Count the calls of all workers so far."""
        counts, connection = Tally(), self.connection
        counts.calls, counts.times = self._past.calls, self._past.times
        return counts.add(connection) if connection is not None else counts

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self.process.pid if self.process else None

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._closing.is_set() and self.failure is None:
                try:
                    self._one_life()
                finally:
                    self._stop_process()
        except BaseException as error:  # Whatever it is, callers must not wait for ever.
            _logger.exception("%s: its supervisor failed", self._recipe.name)
            self._abandon(WorkerStartError(f"its supervisor failed: {worded(error)}", remedy="load the model again"))
        if self.failure is None:
            self._give_up(ModelClosedError("the model is closed", remedy="load it again"))

    def _one_life(self) -> None:
        """Start a worker, watch it until it ends, and wait before the next."""
        try:
            connection = self._started()
        except PackageIntegrityError as refusal:  # Trying again helps nothing.
            self._give_up(refusal)
            return
        except NeuropodError as refusal:
            self._stop_process()
            self._count_fault(refusal)
            return
        if connection is None:
            return
        self._serves, self._retires, self._watching = True, False, connection
        self._publish(connection)
        error = self._watched(connection)
        self._publish(None)
        if not self._closing.is_set() and self.process is not None:
            self.process.kill()  # Before its callers are told: it must not write to what they give back.
            self.process.how_it_ended()
        connection.fail(error)
        serves_well = self._serves_well(connection)
        self._past.add(connection)
        self._stop_process()
        connection.close()
        self._watching = None
        if self._retires:  # It did nothing wrong.
            self.restarts += 1
        elif not self._closing.is_set():
            self._count_fault(error, served=serves_well)

    def _started(self) -> Connection | None:
        recipe, until = self._recipe, time.monotonic() + self._limits.start_timeout_s
        recipe.check()
        try:
            self.process = process = Process(recipe.name, recipe.home, recipe.variables, recipe.settings, self._bell)
        except OSError as error:
            if is_at_limit(error):
                raise limit_error("while a worker was started") from error
            raise WorkerStartError(f"{recipe.home.python or sys.executable} cannot be started: {error}") from error
        _frames.check_version(self._told("hello", until)["hello"])
        self._say(process, recipe.order)
        ready = _checked_facts(self._told("ready", until)["ready"])
        self._born = time.monotonic()
        try:
            connection = self._transport.connect(
                process.link, self._limits.slots, ready, recipe.tensors, self._bell.ring
            )
        except (OSError, SharedMemoryError) as error:
            if is_at_limit(error):
                raise limit_error("while a worker was connected") from error
            if isinstance(error, SharedMemoryError):
                raise
            raise self._died("when it was ready") from error
        self.ready = ready  # Not before: the first one that cannot be connected is not tried again.
        return connection

    def _say(self, process: Process, order: Any) -> None:
        try:
            _frames.send(process.link, order)
        except OSError as error:
            raise self._died("while it was told what to load") from error

    def _told(self, key: str, until: float) -> dict[str, Any]:
        assert self.process is not None  # noqa: S101 - it was started above
        message = self.process.expect(key, until, self._closing.is_set)
        if message is None:
            if self._closing.is_set():
                raise ModelClosedError("the model was closed while it was loaded")
            raise self._died("before it was ready", until)
        if "error" in message:
            raise error_from(message["error"])
        return message

    def _died(self, when: str, until: float | None = None) -> NeuropodError:
        process = self.process
        assert process is not None  # noqa: S101 - it was started
        if until is not None and time.monotonic() >= until and not process.ended:
            limit = self._limits.start_timeout_s
            remedy = "pass Worker(start_timeout_s=...) if it needs longer"
            return WorkerStartError(f"the worker was not ready within {limit:g} s{_wrote(process)}", remedy=remedy)
        process.await_end(_LAST_BREATH_S)  # It hung up: why, its exit code says.
        process.kill()
        how = process.how_it_ended()
        process.drain()
        ending = f"ended {when}; how is {how}" if how.startswith("unknown") else f"ended by {how} {when}"
        remedy = self._start_remedy(process)
        return WorkerStartError(f"the worker {ending}{_wrote(process)}", at=self._recipe.name, remedy=remedy)

    def _start_remedy(self, process: Process) -> str:
        """Name what may have been too little for a worker to start with."""
        if was_at_limit(process.last_lines):
            return REMEDY
        if self._recipe.settings.get("memory_limit_bytes") is not None:
            return "pass a larger Worker(memory_limit_bytes=...), or leave it out"
        return ""

    def _watched(self, connection: Connection) -> NeuropodError:
        """Watch a worker until it ends, is to end, or says what no worker says."""
        process = self.process
        assert process is not None  # noqa: S101 - it was started
        while not self._closing.is_set():
            if process.ended or process.inbox.ended or connection.failure is not None:
                return connection.failure or self._end_of(process, connection)
            bells = [line.descriptor for line in list(connection.abandoned)]
            try:
                said = process.watch(bells, self._patience_s(connection))
            except WorkerProtocolError as error:
                process.kill(str(error))
                return error
            connection.reclaim()
            if said:
                process.kill("it spoke when nobody asked")
                return WorkerProtocolError(f"a worker says nothing on its own, this one said {shown(said[0])}")
            if self._is_worn(process, connection):
                return self._retired(connection)
        return ModelClosedError("the model was closed", remedy="load it again")

    def _patience_s(self, connection: Connection) -> float | None:
        if connection.abandoned:
            return _ABANDONED_LOOK_S  # Their bells ring, but for once in a while (see `_board`).
        return _LIMITS_LOOK_S if self._limits.replaces else None

    def _end_of(self, process: Process, connection: Connection) -> WorkerDiedError:
        if not process.await_end(_HUNG_UP_S):  # Of one that dies, the socket ends before it does.
            process.kill("it hung up")
        how = process.how_it_ended()
        process.drain()
        remedy = "call again: another worker is started" if self._may_restart(connection) else "load the model again"
        if "SIGKILL" in how and ":" not in how:
            remedy = f"{remedy}; if nobody killed it, it may have run out of memory"
        return WorkerDiedError(self._recipe.name, how, process.last_lines, remedy)

    def _may_restart(self, connection: Connection) -> bool:
        faults = 1 if self._serves_well(connection) else self._faults + 1
        return not self.ready.get("stateful") and faults <= self._limits.restarts

    def _serves_well(self, connection: Connection) -> bool:
        """Whether a worker has shown that it can serve, so that its death is not one of those in a row."""
        return connection.answered > 0 or time.monotonic() - self._born > _HEALTHY_S

    def _is_worn(self, process: Process, connection: Connection) -> bool:
        calls, size = self._limits.after_calls, self._limits.above_bytes
        if calls is not None and connection.answered >= calls:
            return True
        return size is not None and process.resident_bytes > size

    def _retired(self, connection: Connection) -> NeuropodError:
        """Let the calls that somebody waits for come to their end; nobody new is let in."""
        process = self.process
        assert process is not None  # noqa: S101 - it runs
        self._publish(None)
        connection.gate.close()
        until = time.monotonic() + _RETIREMENT_S
        while connection.gate.lent > len(connection.abandoned) and time.monotonic() < until:
            if process.ended or connection.failure is not None:
                return connection.failure or self._end_of(process, connection)
            if self._closing.is_set():
                break
            with suppress(WorkerProtocolError):  # It is on its way out.
                process.watch([line.descriptor for line in list(connection.abandoned)], timeout_s=0.02)
            connection.reclaim()
        self._retires = True
        return WorkerDiedError(self._recipe.name, "retirement", (), "call again: another worker is started")

    def _count_fault(self, error: NeuropodError, *, served: bool = False) -> None:
        if not self.ready:  # The first one never became ready: that is for the caller to know, now.
            self._give_up(error)
            return
        # A worker that answered is no worker that cannot start: one bad call in a while must not end the model.
        self._faults = 1 if served else self._faults + 1
        if self.ready.get("stateful") or self._faults > self._limits.restarts:
            self._give_up(error)
            return
        self.restarts += 1
        pause_s = 0.0 if self._faults <= 1 else _FIRST_BACK_OFF_S * 2 ** (self._faults - 2)
        self._closing.wait(min(pause_s, _LONGEST_BACK_OFF_S))

    def _abandon(self, error: NeuropodError) -> None:
        """Give up, and say so to everybody whose call is under way."""
        self._give_up(error)
        self._publish(None)
        if self._watching is not None:
            self._watching.fail(error)
            self._watching.close()

    def _give_up(self, error: NeuropodError) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def _publish(self, connection: Connection | None) -> None:
        with self._changed:
            self.connection = connection
            self._changed.notify_all()

    def _stop_process(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.end(GRACE_S if self._closing.is_set() and self._serves else 0.0)
        self._serves = False


def _checked_facts(ready: object) -> dict[str, Any]:
    """Hold what a worker says of its model against what it may say."""
    facts = ready if isinstance(ready, dict) else {}
    kinds = {"stateful": bool, "description": dict, "serial": bool}
    if not all(isinstance(facts.get(name), kind) for name, kind in kinds.items()):
        raise WorkerProtocolError(f"a worker that is ready says of its model {shown(ready)}")
    return facts


def _wrote(process: Process) -> str:
    lines = process.last_lines
    return f"; it wrote: {' | '.join(lines)}" if lines else ""
