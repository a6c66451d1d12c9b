"""Threads that a check can wait for without waiting for ever."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

_T = TypeVar("_T")


def in_threads(count: int, call: Callable[[int], _T], limit_s: float) -> list[_T]:
    """Call ``call(0)`` to ``call(count - 1)`` at once, each in a thread of its own; give what they give.

    The threads are daemons: one that hangs neither holds up this function beyond `limit_s` nor the end of the process.
    What one of them raises is raised here.
    """
    start = threading.Barrier(count)
    ends: queue.Queue[tuple[int, _T | BaseException]] = queue.Queue()

    def run(number: int) -> None:
        try:
            start.wait()
            ends.put((number, call(number)))
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody sees it.
            ends.put((number, error))

    for number in range(count):
        threading.Thread(target=run, args=(number,), daemon=True).start()
    made = dict(_all_of(ends, count, time.monotonic() + limit_s, limit_s))
    for end in made.values():
        if isinstance(end, BaseException):
            raise end
    return [made[number] for number in range(count)]  # type: ignore[misc]  # no errors are left


def _all_of(ends: queue.Queue[tuple[int, _T]], count: int, deadline: float, limit_s: float) -> list[tuple[int, _T]]:
    got: list[tuple[int, _T]] = []
    while len(got) < count:
        try:
            got.append(ends.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            raise AssertionError(f"{count - len(got)} of {count} threads still run after {limit_s} s") from None
    return got


@contextmanager
def pausing_at_every_line() -> Iterator[None]:
    """Let other threads run before each line of Python that this one calls: where state is shared, it shows.

    The interpreter changes threads a few times in a million lines; whether that hits the wrong one is chance.
    """
    before = sys.gettrace()
    sys.settrace(_pause)
    try:
        yield
    finally:
        sys.settrace(before)


def _pause(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
    del frame, event, argument
    time.sleep(1e-6)
    return _pause
