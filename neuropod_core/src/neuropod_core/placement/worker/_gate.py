"""Who may use a slot next: the caller who waits longest, thread or task."""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Gate(Generic[T]):
    """Lends things to one caller each; those who find none wait in order, and nothing else grows.

    Attributes
    ----------
    free
        What nobody uses; taken from its end, so that what was used last is used next.
    """

    def __init__(self, things: list[T]) -> None:
        self.free, self._total = list(things), len(things)
        self._retired: list[T] = []
        self._waiting: deque[Callable[[T | None], None]] = deque()
        self._lock, self._closed = threading.Lock(), False

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiting)

    @property
    def lent(self) -> int:
        """How many things are in use."""
        return self._total - len(self.free) - len(self._retired)

    def take(self, timeout_s: float | None = None) -> T | None:
        """Take one thing, waiting for it; None if the time is up or the gate was closed."""
        try:
            return self.free.pop()
        except IndexError:
            return self._wait(timeout_s)

    def ask(self, deliver: Callable[[T | None], None]) -> None:
        """Have one thing delivered, at once or when one is free; None if the gate is closed."""
        with self._lock:
            thing = None if self._closed else self._found_or_awaited(deliver)
            if thing is None and not self._closed:
                return
        deliver(thing)

    def _found_or_awaited(self, deliver: Callable[[T | None], None]) -> T | None:
        """Wait first and look then: things are given and taken without the lock, and a giver looks for who waits."""
        self._waiting.append(deliver)
        try:
            thing = self.free.pop()
        except IndexError:
            return None
        self._waiting.remove(deliver)
        return thing

    def withdraw(self, deliver: Callable[[T | None], None]) -> bool:
        """Take `ask` back; False if it was answered already."""
        with self._lock:
            try:
                self._waiting.remove(deliver)
            except ValueError:
                return False
            return True

    def give(self, thing: T) -> None:
        """Give one back: to whoever waits longest."""
        if not self._waiting and not self._closed:
            self.free.append(thing)
            if not self._waiting and not self._closed:  # Else somebody began to wait, or closed it, in between.
                return
            try:
                thing = self.free.pop()
            except IndexError:  # And somebody else took it.
                return
        with self._lock:
            if not self._waiting:
                (self._retired if self._closed else self.free).append(thing)
                return
            deliver = self._waiting.popleft()
        deliver(thing)

    def close(self) -> None:
        """Send everybody away who waits, and who comes later."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            with suppress(IndexError):  # One by one: things are given and taken without the lock.
                while True:
                    self._retired.append(self.free.pop())
        for deliver in waiting:
            deliver(None)

    def forget(self) -> None:
        """Let go of everything, once it is closed."""
        self._retired.clear()
        self._total = 0

    def _wait(self, timeout_s: float | None) -> T | None:
        box: list[T | None] = []
        delivered = _thread.allocate_lock()
        delivered.acquire()

        def deliver(thing: T | None) -> None:
            box.append(thing)
            delivered.release()

        self.ask(deliver)
        try:
            delivered.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0))
        except BaseException:  # Ctrl-C.
            if (thing := self._last_word(deliver, box, delivered)) is not None:
                self.give(thing)
            raise
        return self._last_word(deliver, box, delivered)

    def _last_word(self, deliver: Callable[[T | None], None], box: list[T | None], delivered: Any) -> T | None:
        """Give what was delivered to somebody who waits no longer."""
        if not box and not self.withdraw(deliver):  # It is on its way.
            delivered.acquire()
        return box[0] if box else None
