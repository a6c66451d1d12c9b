"""Where a model runs. A placement starts an executor; nothing above asks which one it got."""

from neuropod_core.placement._base import Placement
from neuropod_core.placement._in_process import InProcess

__all__ = ["IN_PROCESS", "InProcess", "Placement"]

IN_PROCESS = InProcess()
"""The model runs in this process."""
