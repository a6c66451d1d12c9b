"""Who may use a slot next: the caller who waits longest, thread or task."""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_NOTHING: Any = object()


class Gate(Generic[T]):
    """Lends things to one caller each; those who find none wait in order, and nothing else grows.

    Attributes
    ----------
    free
        What nobody uses; taken from its end, so that what was used last is used next.
    idle
        Takes from `free` in a ``for`` loop, an IndexError if there is nothing. Unlike a call it is not interrupted
        between taking a thing and giving it a name.
    queue
        Whoever waits, each to be called with the thing.
    closed
        Whether nothing is lent any more.
    """

    def __init__(self, things: list[T]) -> None:
        self.free, self._total = list(things), len(things)
        self.idle: Iterator[T] = iter(self.free.pop, _NOTHING)
        self.queue: deque[Callable[[T | None], None]] = deque()
        self.closed = False
        self._retired: list[T] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self.queue)

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
            thing = None if self.closed else self._found_or_awaited(deliver)
            if thing is None and not self.closed:
                return
        deliver(thing)

    def _found_or_awaited(self, deliver: Callable[[T | None], None]) -> T | None:
        """Wait first and look then: things are given and taken without the lock, and a giver looks for who waits."""
        self.queue.append(deliver)
        try:
            thing = self.free.pop()
        except IndexError:
            return None
        self.queue.remove(deliver)
        return thing

    def withdraw(self, deliver: Callable[[T | None], None]) -> bool:
        """Take `ask` back; False if it was answered already."""
        with self._lock:
            try:
                self.queue.remove(deliver)
            except ValueError:
                return False
            return True

    def give(self, thing: T) -> None:
        """Give one back: to whoever waits longest."""
        if self.queue or self.closed:
            self._hand_over(thing)
            return
        self.free.append(thing)
        if self.queue or self.closed:
            self.attend()

    def attend(self) -> None:
        """Bring something that is free to where it belongs: somebody began to wait, or closed it, as it came."""
        try:
            thing = self.free.pop()
        except IndexError:  # And somebody else took it.
            return
        self._hand_over(thing)

    def _hand_over(self, thing: T) -> None:
        with self._lock:
            if not self.queue:
                (self._retired if self.closed else self.free).append(thing)
                return
            deliver = self.queue.popleft()
        deliver(thing)

    def close(self) -> None:
        """Send everybody away who waits, and who comes later."""
        with self._lock:
            self.closed = True
            waiting = list(self.queue)
            self.queue.clear()
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
