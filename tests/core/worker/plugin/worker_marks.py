"""Marks for tests of workers."""

import pytest

TRANSPORTS = ("shared_memory", "socket")


def shared_memory_only(reason: str) -> pytest.MarkDecorator:
    """Mark a test that says nothing about other transports, and why."""
    assert reason
    return pytest.mark.parametrize("transport", ["shared_memory"], indirect=True)
