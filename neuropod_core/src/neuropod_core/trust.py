"""What kinds of artefact a caller admits."""

from __future__ import annotations

import os
from enum import Enum

from neuropod_core.errors import OptionError, TrustError, shown

__all__ = ["Trust"]

CEILING_VARIABLE = "NEUROPOD_TRUST"


class Trust(str, Enum):
    """A class of artefact, by what its content can do to the machine that runs it; each admits those before it.

    ``DATA``
        Operators of the runtime only: no files, no code (ONNX without custom ops, safetensors).
    ``GRAPH``
        Operators that can read and write files (TorchScript, SavedModel).
    ``CODE``
        Arbitrary code (Python, pickles, anything with a library in ``ops/``).

    Examples
    --------
    >>> Trust.CODE.admits(Trust.GRAPH), Trust.DATA.admits(Trust.GRAPH)
    (True, False)
    """

    DATA = "data"
    GRAPH = "graph"
    CODE = "code"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def parse(cls, name: Trust | str) -> Trust:
        """Read a trust class by its name.

        Raises
        ------
        OptionError
            If there is no such class.
        """
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(repr(trust.value) for trust in cls)
            raise OptionError(f"{shown(name)} is no trust class", remedy=f"use one of {known}") from None

    def admits(self, other: Trust) -> bool:
        """Whether a caller that gives this trust admits an artefact of class `other`."""
        order = list(Trust)
        return order.index(self) >= order.index(other)


def check_trust(needed: Trust, given: Trust, why: str, at: str) -> None:
    """Refuse an artefact of class `needed` where `given`, cut to the ceiling of ``NEUROPOD_TRUST``, does not admit it.

    Raises
    ------
    TrustError
        With the remedy: what to pass, or which variable stands in the way.
    """
    ceiling = _ceiling()
    if not ceiling.admits(needed):
        remedy = f"the environment variable {CEILING_VARIABLE}={ceiling} forbids it"
        raise TrustError(needed.value, min(given, ceiling, key=list(Trust).index).value, why, at, remedy)
    if not given.admits(needed):
        remedy = f"if you trust where it comes from, pass trust={needed.value!r}"
        raise TrustError(needed.value, given.value, why, at, remedy)


def _ceiling() -> Trust:
    name = os.environ.get(CEILING_VARIABLE)
    if not name:
        return Trust.CODE
    try:
        return Trust.parse(name)
    except OptionError as error:
        raise OptionError(error.what, at=f"environment variable {CEILING_VARIABLE}", remedy=error.remedy) from None
