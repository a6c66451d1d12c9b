"""Where a model runs. A placement starts an executor; nothing above asks which one it got."""

from typing import TYPE_CHECKING

from neuropod_core.placement._base import Placement
from neuropod_core.placement._choice import placement_of
from neuropod_core.placement._in_process import InProcess

if TYPE_CHECKING:
    from neuropod_core.placement.worker import Worker

__all__ = ["IN_PROCESS", "InProcess", "Placement", "Worker", "placement_of"]

IN_PROCESS = InProcess()
"""The model runs in this process."""


def __getattr__(name: str) -> object:
    """Import the worker placement when it is first used."""
    if name != "Worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from neuropod_core.placement.worker import Worker

    return Worker
