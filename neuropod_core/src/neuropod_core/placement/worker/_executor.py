"""Runs calls in workers: as `Executor` promises, from any thread and from tasks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from math import prod
from time import perf_counter_ns
from typing import Any

import numpy as np

from neuropod_core.backend import Array, Executor, Names, NativeTensors, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import (
    DeadlineError,
    ForkedModelError,
    ModelClosedError,
    NeuropodError,
    OptionError,
    WorkerProtocolError,
    WorkerStartError,
)
from neuropod_core.placement.worker._connection import (
    Connection,
    LeftToThreadError,
    Line,
    OverdueError,
    OverdueForRoomError,
    Transport,
)
from neuropod_core.placement.worker._recipe import Recipe
from neuropod_core.placement.worker._stats import stats_of
from neuropod_core.placement.worker._supervisor import Limits, Supervisor
from neuropod_core.placement.worker._tasks import has_turn

_everyone: weakref.WeakSet[WorkerExecutor] = weakref.WeakSet()


class WorkerExecutor(Executor):
    """One model in one or several workers; each call goes to the least busy.

    Parameters
    ----------
    recipes
        What to start, one for each replica.
    limits
        When a worker is started anew.
    transport
        How calls travel.
    kills_late
        Whether a call past its deadline ends the worker that runs it.
    """

    thread_safe = True

    def __init__(self, recipes: list[Recipe], limits: Limits, transport: Transport, *, kills_late: bool) -> None:
        self._transport, self._kills_late = transport, kills_late
        self._changed = threading.Condition()
        self._refusal: NeuropodError | None = None
        self._failed, self._counting = 0, threading.Lock()
        self._supervisors: list[Supervisor] = []
        self._ender = weakref.finalize(self, _end, self._supervisors, transport, os.getpid())
        _everyone.add(self)
        try:
            for recipe in recipes:  # One by one: those that are there are ended if the next one cannot be.
                self._supervisors.append(Supervisor(recipe, limits, transport, self._changed))
            self._wait_for_all()
        except BaseException:
            self._ender()
            raise
        self._only: Any = self._supervisors[0] if len(recipes) == 1 else _Several
        self.stateful = any(supervisor.ready["stateful"] for supervisor in self._supervisors)
        if self.stateful and len(recipes) > 1:
            self._ender()
            remedy = "pass replicas=1: a call changes what later calls give, and they would go elsewhere"
            raise OptionError("a stateful model has one worker", at="replicas", remedy=remedy)
        if self.stateful and limits.replaces:
            self._ender()
            remedy = "leave restart_after_calls and restart_above_bytes out: its state would go"
            raise OptionError("a stateful model keeps its worker", at="placement", remedy=remedy)

    @property
    def description(self) -> Mapping[str, object]:
        """What the executor in the worker says of itself, and where it runs."""
        pids = [supervisor.pid for supervisor in self._supervisors]
        return {**self._supervisors[0].ready["description"], "placement": "worker", "pids": pids}

    def infer(self, inputs: Tensors, outputs: Names = None, timeout_s: float | None = None) -> Tensors:
        """Run the model in a worker."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        has_turn = False
        while True:
            if not has_turn:
                connection = self._only.connection or self._connection(deadline, timeout_s)
            if connection.gate.queue and not has_turn:
                has_turn = self._waits(connection, deadline, timeout_s)
                continue
            try:
                for line in connection.gate.idle:  # noqa: B007 - it is used below; see `Gate.idle`
                    break
            except IndexError:
                has_turn = self._waits(connection, deadline, timeout_s)
                continue
            line.loan = loan = [None]  # No call: nothing interrupts before it can be caught.
            has_turn = False
            try:
                return self._through(connection, line, inputs, outputs, deadline)
            except BaseException as error:
                if line.loan is not loan:  # It was over.
                    raise
                if not self._runs_again(error, connection, line, inputs):
                    raise self._said(error, connection, line, timeout_s) from error.__cause__

    @property
    def gives_native(self) -> bool:
        """Whether the executor in the worker has native tensors; older workers do not say."""
        return bool(self._supervisors[0].ready.get("gives_native", True))

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Run the model in a worker; between processes, tensors are NumPy arrays."""
        return self.infer_native_within(None, inputs, outputs)

    def infer_native_within(
        self, timeout_s: float | None, inputs: NativeTensors, outputs: Names = None
    ) -> NativeTensors:
        """Run the model in a worker, and wait no longer than `timeout_s`."""
        if not self.gives_native:
            return super().infer_native(inputs, outputs)
        return dict(self.infer_within(timeout_s, inputs, outputs))

    def infer_within(self, timeout_s: float | None, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model in a worker, and wait no longer than `timeout_s`."""
        return self.infer(inputs, outputs, timeout_s)

    async def infer_async(self, inputs: Tensors, outputs: Names = None, timeout_s: float | None = None) -> Tensors:
        """Run the model in a worker while the loop goes on."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            connection, line = await self._line(deadline, timeout_s)
            started = perf_counter_ns()
            try:
                results = await line.call_async(inputs, outputs, deadline)
            except LeftToThreadError as error:
                raise asyncio.CancelledError(*error.args) from error  # Of no other class: asyncio looks at that.
            except BaseException as error:  # noqa: BLE001 - whatever ends the call, the line must be settled
                if not self._runs_again(error, connection, line, inputs):
                    raise self._said(error, connection, line, timeout_s) from error.__cause__
            else:
                line.times[(perf_counter_ns() - started).bit_length()] += 1
                connection.release(line)
                return results

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Give an array that lies where the workers read it."""
        if self._refusal is not None:
            raise _again(self._refusal)
        nbytes = 0 if dtype is DType.STRING else prod(shape) * dtype.itemsize
        memory = self._transport.allocate(nbytes) if nbytes else None
        if memory is None:
            return super().allocate(shape, dtype)
        array: Array = np.ndarray(shape, dtype.numpy, buffer=memory)
        return array

    def stats(self) -> dict[str, Any]:
        """Count what has happened so far."""
        return stats_of(self._supervisors, self._transport, self._failed)

    def close(self) -> None:
        """End the workers; results that callers hold stay good."""
        self._refusal = self._refusal or ModelClosedError("the model is closed", remedy="load it again")
        self._ender()

    def forked(self) -> None:
        """In the child of a fork: the workers are the parent's, and stay with it."""
        what = "the model was loaded before this process was forked, and its worker is the parent's"
        self._refusal = ForkedModelError(what, remedy="load the model in the child")
        self._ender.detach()
        self._changed = threading.Condition()
        for supervisor in self._supervisors:
            supervisor.forked()

    def _through(
        self,
        connection: Connection,
        line: Line,
        inputs: Tensors,
        outputs: Names,
        deadline: float | None,
    ) -> Tensors:
        started = perf_counter_ns()
        results = line.call_through(inputs, outputs, deadline, spins=connection.caller_is_alone())
        line.times[(perf_counter_ns() - started).bit_length()] += 1
        connection.release(line)
        return results

    # -- getting a line

    def _waits(self, connection: Connection, deadline: float | None, timeout_s: float | None) -> bool:
        """Wait for a line; False if the connection ended meanwhile, or another worker has nothing to do."""
        has_turn = connection.gate.wait(deadline, self._has_idle)
        self._check_time(deadline, timeout_s, has_turn=has_turn)
        return has_turn

    @cached_property
    def _has_idle(self) -> Callable[[], bool] | None:
        """Tells whether a worker would take a call at once; None where there is one worker."""
        if len(self._supervisors) == 1:
            return None
        return lambda: any(each.gate.free and not each.gate.queue for each in self._connections())

    def _connections(self) -> list[Connection]:
        return [each.connection for each in self._supervisors if each.connection is not None]

    async def _line(self, deadline: float | None, timeout_s: float | None) -> tuple[Connection, Line]:
        """Give a line of the least busy worker to a task, waiting for one that is free, or for one that is starting."""
        turn = False
        while True:
            if not turn:
                connection = await self._connection_async(deadline, timeout_s)
            if turn or not connection.gate.queue:
                with suppress(IndexError):
                    for line in connection.gate.idle:
                        return connection, line
            turn = await has_turn(connection.gate, deadline, self._has_idle)
            self._check_time(deadline, timeout_s, has_turn=turn)

    async def _connection_async(self, deadline: float | None, timeout_s: float | None) -> Connection:
        connection = self._found()
        if connection is None:
            connection = await asyncio.to_thread(self._connection, deadline, timeout_s)
        return connection

    def _check_time(self, deadline: float | None, timeout_s: float | None, *, has_turn: bool) -> None:
        if not has_turn and deadline is not None and time.monotonic() >= deadline:
            raise self._late_in_line(timeout_s)

    def _connection(self, deadline: float | None, timeout_s: float | None) -> Connection:
        connection = self._found()
        if connection is not None:
            return connection
        with self._changed:
            while (connection := self._found()) is None:
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise _late(timeout_s, "it waited for a worker that is starting")
                self._changed.wait(left_s)
        return connection

    def _found(self) -> Connection | None:
        """Give the least busy connection; None while every worker is starting."""
        if self._refusal is not None:
            raise _again(self._refusal)
        first = self._supervisors[0]
        if len(self._supervisors) == 1 and first.connection is not None:
            return first.connection
        there = self._connections()
        if there:
            return min(there, key=lambda connection: connection.load)
        if all(each.failure is not None for each in self._supervisors):
            raise _again(first.failure)
        return None

    # -- when a call does not come to its end

    def _runs_again(self, error: BaseException, connection: Connection, line: Line, inputs: Tensors) -> bool:
        """Whether a call that broke off never began, since its worker died before: then its line is settled."""
        line.give_up(inputs)
        if error is line.failure:
            error.__traceback__ = None  # It is every caller's: the frames of one would keep its inputs.
        if error is not line.failure or not line.never_began:
            return False
        connection.settle(line)
        return True

    def _said(self, error: BaseException, connection: Connection, line: Line, timeout_s: float | None) -> BaseException:
        with self._counting:
            self._failed += 1
        is_innocent = connection.is_innocent(line)
        if isinstance(error, WorkerProtocolError):
            connection.accuse(error)
        connection.settle(line)
        if isinstance(error, OverdueError):
            return self._late_call(error, connection, timeout_s, is_innocent=is_innocent)
        return _again(error) if error is line.failure else error

    def _late_call(
        self, error: OverdueError, connection: Connection, timeout_s: float | None, *, is_innocent: bool
    ) -> DeadlineError:
        if isinstance(error, OverdueForRoomError):
            return _late(timeout_s, "it waited for room in shared memory", error.remedy)
        if is_innocent:
            return self._late_in_line(timeout_s)
        if self._kills_late:
            for supervisor in self._supervisors:
                if supervisor.connection is connection:
                    supervisor.dismiss(connection, "a call was past its deadline")
        return _late(timeout_s, "its worker was busy with it")

    def _late_in_line(self, timeout_s: float | None) -> DeadlineError:
        instead = "let fewer callers wait" if self.stateful else "pass more replicas"
        return _late(timeout_s, "it waited for calls before it", f"give it longer, or {instead}")

    def _wait_for_all(self) -> None:
        with self._changed:
            while True:
                for supervisor in self._supervisors:
                    if supervisor.failure is not None:
                        raise supervisor.failure
                if all(supervisor.connection is not None for supervisor in self._supervisors):
                    return
                self._changed.wait()


class _Several:
    """Stands for the one supervisor where there are several: there is no connection that every call takes."""

    connection = None


def _late(timeout_s: float | None, doing: str, remedy: str = "give it longer") -> DeadlineError:
    return DeadlineError(timeout_s or 0, doing, remedy)


def _again(error: BaseException | None) -> NeuropodError:
    """Give an error of its own to every caller: a traceback belongs to one."""
    if not isinstance(error, NeuropodError):
        return WorkerStartError("no worker is there", remedy="load the model again")
    copy: NeuropodError = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def _end(supervisors: list[Supervisor], transport: Transport, process: int) -> None:
    if os.getpid() != process:
        return
    for supervisor in supervisors:
        supervisor.begin_to_close()
    for supervisor in supervisors:
        supervisor.close()
    transport.close()


def _in_child() -> None:
    for executor in list(_everyone):
        with suppress(Exception):
            executor.forked()


os.register_at_fork(after_in_child=_in_child)
