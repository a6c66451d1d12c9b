"""What has happened in the workers of a model, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuropod_core.placement.worker._connection import Transport
from neuropod_core.placement.worker._supervisor import Supervisor


def stats_of(supervisors: Sequence[Supervisor], transport: Transport, failed: int) -> dict[str, Any]:
    """Count calls, failures, who waits, times, restarts and memory.

    ``latency_us`` maps an upper bound in microseconds to the number of calls that took less, and at least half of it.
    """
    tallies = [supervisor.tally() for supervisor in supervisors]
    connections = [each.connection for each in supervisors if each.connection is not None]
    in_store = sum(len(connection.in_store()) for connection in connections)
    times = [sum(tally.times[bits] for tally in tallies) for bits in range(64)]
    return {
        "calls": sum(tally.calls for tally in tallies),
        "failed": failed,
        "running": sum(connection.gate.lent for connection in connections) - in_store,
        "waiting": sum(connection.gate.waiting for connection in connections) + in_store,
        "latency_us": {(1 << bits) / 1000: count for bits, count in enumerate(times) if count},
        "restarts": sum(supervisor.restarts for supervisor in supervisors),
        "replicas": [_replica(supervisor) for supervisor in supervisors],
        "shared_memory_bytes": transport.usage(),
    }


def _replica(supervisor: Supervisor) -> dict[str, Any]:
    process = supervisor.process
    return {
        "pid": supervisor.pid,
        "ready": supervisor.connection is not None,
        "restarts": supervisor.restarts,
        "resident_bytes": process.resident_bytes if process else 0,
    }
