"""Who may use a slot next: the caller who waits longest, thread or task."""

from __future__ import annotations

import _thread
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_NOTHING: Any = object()

LONGEST_NAP_S = 1.0
"""Whoever waits looks again after so long: an interrupt may have kept somebody from waking it."""

_LOOK_AROUND_S = 0.1
"""The same for somebody who might go elsewhere."""

_LOST_S = 3.0
"""Whoever was not heard of for so long was interrupted as it left."""


class Waiter:
    """Somebody in the queue.

    Attributes
    ----------
    wake
        Has it look again; called by any thread, perhaps twice. Gives False if it never will.
    seen
        When it looked last.
    """

    __slots__ = ("seen", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake, self.seen = wake, time.monotonic()


class Gate(Generic[T]):
    """Lends things to one caller each; those who find none wait in order, and nothing else grows.

    What is lent is held by its caller alone, and what is free lies in one list, whatever is interrupted: a caller that
    waits is woken when something is free, and takes it itself.

    Attributes
    ----------
    free
        What nobody uses; taken from its end, so that what was used last is used next. Whoever gives something back
        appends it, and has the gate `attend` if somebody is in the `queue`, or it is `closed`.
    idle
        Takes from `free` in a ``for`` loop, an IndexError if there is nothing. Unlike a call it is not interrupted
        between taking a thing and giving it a name. Where somebody waits, a newcomer has to `wait` as well.
    queue
        Whoever waits.
    closed
        Whether nothing is lent any more.
    """

    def __init__(self, things: list[T]) -> None:
        self.free, self._total = list(things), len(things)
        self.idle: Iterator[T] = iter(self.free.pop, _NOTHING)
        self.queue: deque[Waiter] = deque()
        self.closed = False
        self._retired: list[T] = []

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self.queue)

    @property
    def lent(self) -> int:
        """How many things are in use."""
        return self._total - len(self.free) - len(self._retired)

    def attend(self) -> None:
        """Wake whoever waits longest, as many as there are things free; once closed, put away what is."""
        if self.closed:
            with suppress(IndexError):  # One by one: others give and take meanwhile.
                while True:
                    self._retired.append(self.free.pop())
        for waiter in self._next():
            if waiter.wake() is False:
                self._remove(waiter)

    def wait(self, until: float | None, is_better: Callable[[], bool] | None = None) -> bool:
        """Wait until something is free for this thread, which then takes it.

        False if the time is up, if it is closed, or if there `is_better` to do: that is asked now and then. Somebody
        else may be quicker; then wait again.
        """
        woken = _thread.allocate_lock()
        woken.acquire()
        waiter, has_turn = Waiter(lambda: _release(woken)), False
        try:
            while not self.closed:
                has_turn, left_s = self.has_turn(waiter), seconds_of_nap(until, looks_around=is_better is not None)
                if has_turn or left_s <= 0 or (is_better is not None and is_better()):
                    return has_turn
                woken.acquire(timeout=left_s)
            return False
        finally:
            self.leave(waiter, has_turn=has_turn)

    def has_turn(self, waiter: Waiter) -> bool:
        """Keep somebody in the queue, and tell whether something is free for it."""
        waiter.seen = time.monotonic()
        if waiter not in self.queue:
            self.queue.append(waiter)
        return any(waiter is each for each in self._next())

    def leave(self, waiter: Waiter, *, has_turn: bool) -> None:
        """Let somebody out of the queue; others are woken if there is more than it takes itself."""
        self._remove(waiter)
        if self.queue and len(self.free) > has_turn:
            self.attend()

    def close(self) -> None:
        """Send everybody away who waits, and who comes later."""
        self.closed = True
        self.attend()
        for waiter in list(self.queue):
            waiter.wake()

    def forget(self) -> None:
        """Let go of everything, once it is closed."""
        self._retired.clear()
        self._total = 0

    def _next(self) -> list[Waiter]:
        """Give those who wait longest, as many as there are things free; the lost ones leave the queue."""
        now = time.monotonic()
        for waiter in list(self.queue)[: len(self.free)]:
            if now - waiter.seen > _LOST_S:
                self._remove(waiter)
        return list(self.queue)[: len(self.free)]

    def _remove(self, waiter: Waiter) -> None:
        with suppress(ValueError):
            self.queue.remove(waiter)


def seconds_of_nap(until: float | None, *, looks_around: bool) -> float:
    """Give how long to wait before looking again; not more than 0 if the time is up."""
    longest_s = _LOOK_AROUND_S if looks_around else LONGEST_NAP_S
    return longest_s if until is None else min(longest_s, until - time.monotonic())


def _release(woken: _thread.LockType) -> None:
    with suppress(RuntimeError):  # It was woken already.
        woken.release()
