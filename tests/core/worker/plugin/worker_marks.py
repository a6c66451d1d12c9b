"""What tests of workers share: marks, and how to wait."""

import time
from collections.abc import Callable

import pytest

TRANSPORTS = ("shared_memory", "socket")


def shared_memory_only(reason: str) -> pytest.MarkDecorator:
    """Mark a test that says nothing about other transports, and why."""
    assert reason
    return pytest.mark.parametrize("transport", ["shared_memory"], indirect=True)


def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for what another thread or process does."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)
