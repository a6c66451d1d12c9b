"""What a process holds: children, descriptors, mapped memory, threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Census:
    """One look at this process."""

    processes: int
    descriptors: int
    segments: int
    threads: int

    @classmethod
    def now(cls) -> Census:
        """Look."""
        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
        return cls(
            processes=len(list(descendants(os.getpid()))),
            descriptors=len(os.listdir("/proc/self/fd")),
            segments=maps.count("memfd:neuropod"),
            threads=threading.active_count(),
        )

    def more_than(self, before: Census) -> dict[str, int]:
        """Say what there is now that was not there before."""
        then = asdict(before)
        return {name: count - then[name] for name, count in asdict(self).items() if count > then[name]}


def descendants(pid: int) -> Iterator[int]:
    """Give the living processes below one."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := _parent_and_state(int(entry))) and found[1] != "Z":
            below.setdefault(found[0], []).append(int(entry))
    waiting = [pid]
    while waiting:
        for child in below.get(waiting.pop(), ()):
            waiting.append(child)
            yield child


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    found = _parent_and_state(pid)
    return found is not None and found[1] != "Z"


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process has in use, without what it shares."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * PAGE_BYTES


def _parent_and_state(pid: int) -> tuple[int, str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    state, parent, *_ = stat.rpartition(")")[2].split()
    return int(parent), state
