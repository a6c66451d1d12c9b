"""What wakes a thread that sleeps, by the best means that the system has: ``eventfd`` and ``poll``, or what comes near.

Linux has both; other systems have pipes, and `selectors` knows what to look at them with.
"""

from __future__ import annotations

import os
import select
import selectors
from contextlib import suppress
from typing import Any, Protocol, cast

IN, OUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


class Poll(Protocol):
    """Looks at many descriptors at once, as `select.poll` does."""

    def register(self, descriptor: Any, events: int = ..., /) -> None:
        """Look at one more."""

    def unregister(self, descriptor: Any, /) -> None:
        """Look at it no longer; a KeyError if it was not looked at."""

    def poll(self, timeout_ms: float | None = None, /) -> list[tuple[int, int]]:
        """Wait until something can be done with one of them; give those, with what can be done."""


class Bell(Protocol):
    """Wakes the one who sleeps on it.

    Attributes
    ----------
    descriptor
        Readable when somebody rang.
    """

    descriptor: int

    def ring(self) -> None:
        """Wake whoever sleeps, or keep the next one awake."""

    def silence(self) -> None:
        """Forget that somebody rang."""


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
    """An ``eventfd``, looked at together with a deadline."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if descriptor is None else descriptor
        self._poll = new_poll()
        self._poll.register(self.descriptor, IN)

    def ring(self) -> None:
        """Wake whoever sleeps, or keep the next one awake."""
        with suppress(OSError, ValueError):  # Full: nobody can miss it. Closed: nobody is there.
            os.eventfd_write(self.descriptor, 1)

    def sleep(self, timeout_ms: float | None) -> bool:
        """Sleep until somebody rings or the time is up; tell whether somebody rang."""
        if not self._poll.poll(timeout_ms):
            return False
        self.silence()
        return True

    def silence(self) -> None:
        """Forget that somebody rang."""
        with suppress(OSError, ValueError):
            os.eventfd_read(self.descriptor)

    def __del__(self) -> None:
        # Not before everybody has let go: a number that is closed may be given to something else at once.
        with suppress(OSError, AttributeError):
            os.close(self.descriptor)


class PipeBell:
    """A bell for systems without ``eventfd``."""

    def __init__(self) -> None:
        self.descriptor, self._ringer = os.pipe()
        for end in (self.descriptor, self._ringer):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """Wake whoever sleeps, or keep the next one awake."""
        with suppress(OSError):  # Full: nobody can miss it.
            os.write(self._ringer, b"\0")

    def silence(self) -> None:
        """Forget that somebody rang."""
        with suppress(OSError):
            os.read(self.descriptor, 1 << 16)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # As in `Doorbell`.
            os.close(self.descriptor)
            os.close(self._ringer)


def new_poll() -> Poll:
    """Give what looks at descriptors here."""
    return cast("Poll", select.poll()) if hasattr(select, "poll") else SelectorPoll()


def new_bell() -> Bell:
    """Give a bell for the threads of this process."""
    return Doorbell() if hasattr(os, "eventfd") else PipeBell()
