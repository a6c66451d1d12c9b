"""Placements by name."""

from __future__ import annotations

from neuropod_core.errors import OptionError, shown
from neuropod_core.placement._base import Placement
from neuropod_core.placement._in_process import InProcess

NAMES = ("in_process", "worker")


def placement_of(given: Placement | str) -> Placement:
    """Give the placement that `given` is or names: ``"in_process"``, or ``"worker"`` with the usual settings.

    Raises
    ------
    OptionError
        If there is none of that name.
    """
    if isinstance(given, Placement):
        return given
    if given == "in_process":
        return InProcess()
    if given == "worker":
        from neuropod_core.placement.worker import Worker

        return Worker()
    known = ", ".join(map(repr, NAMES))
    raise OptionError(f"{shown(given)} is no placement", at="placement", remedy=f"use one of {known}, or Worker(...)")
