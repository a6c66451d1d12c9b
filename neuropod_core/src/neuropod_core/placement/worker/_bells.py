"""What wakes a thread that sleeps: a pipe, looked at by ``poll``, or by what `selectors` finds where there is none."""

from __future__ import annotations

import os
import select
import selectors
from contextlib import suppress
from typing import Any, Protocol, cast

_STROKE, _MOST_STROKES = b"\0", 400

LONGEST_POLL_MS = 1e9
"""What `poll` takes at a time, whatever the deadline; whoever waits looks at the clock again."""

IN, OUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


class Poll(Protocol):
    """Looks at many descriptors at once, as `select.poll` does."""

    def register(self, descriptor: Any, events: int = ..., /) -> None:
        """Look at one more."""

    def unregister(self, descriptor: Any, /) -> None:
        """Look at it no longer; a KeyError if it was not looked at."""

    def poll(self, timeout_ms: float | None = None, /) -> list[tuple[int, int]]:
        """Wait until something can be done with one of them; give those, with what can be done."""


class SelectorPoll:
    """`select.poll`, made of what `selectors` finds."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, descriptor: Any, events: int = IN) -> None:
        """Look at one more."""
        wanted = (selectors.EVENT_READ if events & IN else 0) | (selectors.EVENT_WRITE if events & OUT else 0)
        self._selector.register(descriptor, wanted)

    def unregister(self, descriptor: Any) -> None:
        """Look at it no longer."""
        self._selector.unregister(descriptor)

    def poll(self, timeout_ms: float | None = None) -> list[tuple[int, int]]:
        """Wait until something can be done with one of them."""
        ready = self._selector.select(None if timeout_ms is None else max(timeout_ms, 0) / 1000)
        return [(key.fd, events) for key, events in ready]


class Doorbell:
    """A pipe, waited for by itself or together with a deadline.

    Not an ``eventfd``: that has one set of flags for both sides, and a worker could make its parent's ring block. Of a
    pipe, another process is given the one end that it needs; and whoever made the pipe uses neither the flags of an end
    that it gives away nor those of a blocking one where it must not block, since another process may empty the pipe.

    Parameters
    ----------
    descriptor, ringer
        The end that becomes readable when somebody rings, or the end that rings, as another process sent it; a new pipe
        if neither is given. -1 where the other process has that end.
    """

    def __init__(self, *, descriptor: int = -1, ringer: int = -1) -> None:
        self._own_ringer = self._patient = -1
        if descriptor < 0 and ringer < 0:
            descriptor, ringer = os.pipe()
            os.set_blocking(descriptor, False)
            os.set_blocking(ringer, False)
            self._patient = _opened_again(descriptor, os.O_RDONLY)
        elif descriptor >= 0:
            os.set_blocking(descriptor, True)  # Nobody else reads here, whatever its maker thought of it.
        self.descriptor, self.ringer = descriptor, ringer
        self._poll = new_poll()
        if descriptor >= 0:
            self._poll.register(descriptor, IN)

    def ring(self) -> None:
        """Wake whoever sleeps, or keep the next one awake."""
        try:  # noqa: SIM105 - a context manager costs as much as the system call
            os.write(self.ringer if self._own_ringer < 0 else self._own_ringer, _STROKE)
        except OSError:  # Full: nobody can miss it. Closed: nobody is there.
            pass

    def wait(self) -> bool:
        """Sleep until somebody rings, however long that takes; False if nobody is left who could."""
        if self._patient >= 0:
            return bool(os.read(self._patient, _MOST_STROKES))
        return self.sleep(None) if self.ringer >= 0 else bool(os.read(self.descriptor, _MOST_STROKES))

    def sleep(self, timeout_ms: float | None) -> bool:
        """Sleep until somebody rings or the time is up; tell whether somebody rang."""
        if not self._poll.poll(None if timeout_ms is None else min(timeout_ms, LONGEST_POLL_MS)):
            return False
        self.silence()
        return True

    def silence(self) -> None:
        """Forget that somebody rang."""
        with suppress(OSError):
            os.read(self.descriptor, _MOST_STROKES)

    def give_away_ringer(self) -> None:
        """Keep an end for ringing whose flags are this process's own; the other one was sent."""
        self._own_ringer = _opened_again(self.ringer, os.O_WRONLY | os.O_NONBLOCK)
        if self._own_ringer >= 0:
            os.close(self.ringer)
            self.ringer = -1

    def give_away_descriptor(self) -> None:
        """Keep the end for ringing only; the other one was sent."""
        self._poll.unregister(self.descriptor)
        ends = self.descriptor, self._patient
        self.descriptor = self._patient = -1
        for end in ends:
            if end >= 0:
                os.close(end)

    def __del__(self) -> None:
        # Not before everybody has let go: a number that is closed may be given to something else at once.
        names = ("descriptor", "ringer", "_own_ringer", "_patient")
        for end in (getattr(self, name, -1) for name in names):
            with suppress(OSError):
                if end >= 0:
                    os.close(end)


def _opened_again(descriptor: int, flags: int) -> int:
    """Give another descriptor of a pipe, with flags of its own; -1 where the system has no way to."""
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)
    return -1


def new_poll() -> Poll:
    """Give what looks at descriptors here."""
    return cast("Poll", select.poll()) if hasattr(select, "poll") else SelectorPoll()
