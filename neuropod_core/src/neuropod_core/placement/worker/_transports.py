"""Which transports there are, and which one is taken where nobody says."""

from __future__ import annotations

from collections.abc import Callable

from neuropod_core.errors import OptionError, shown
from neuropod_core.placement.worker import _shared_memory
from neuropod_core.placement.worker._connection import Transport
from neuropod_core.placement.worker._shared_memory import SharedMemory
from neuropod_core.placement.worker._sockets import Sockets

_TRANSPORTS: dict[str, Callable[[int], Transport]] = {SharedMemory.name: SharedMemory, Sockets.name: Sockets}


def check_name(name: object) -> None:
    """Admit the name of a transport that this system has; None stands for the best one.

    Raises
    ------
    OptionError
        If there is none of that name, here or anywhere.
    """
    if name is not None and (not isinstance(name, str) or name not in _TRANSPORTS):
        names = ", ".join(map(repr, _TRANSPORTS))
        raise OptionError(f"Worker(transport=...) is one of {names}, not {shown(name)}")
    if name == SharedMemory.name and not _shared_memory.is_available():
        what = "this system has no sealed shared memory"
        raise OptionError(what, at="transport", remedy=f"leave transport out: {Sockets.name!r} is taken")


def new_transport(name: str | None, limit_bytes: int) -> Transport:
    """Make the transport of that name, or the best one that this system has."""
    best = SharedMemory.name if _shared_memory.is_available() else Sockets.name
    return _TRANSPORTS[name or best](limit_bytes)
