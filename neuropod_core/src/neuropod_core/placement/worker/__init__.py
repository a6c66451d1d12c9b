"""Models that run in another process of this machine: shared memory, supervision, replicas."""

from neuropod_core.placement.worker._placement import Worker

__all__ = ["Worker"]
