"""Entry points of what is installed: a damaged distribution takes away its own, nobody else's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib import metadata

__all__ = ["Entry", "damaged", "entries"]

_NAMELESS = "an unknown distribution"

_logger = logging.getLogger("neuropod")


@dataclass(frozen=True)
class Entry:
    """An entry point: its name and value, and the distribution whose it is."""

    name: str
    value: str
    distribution: str
    version: str


def entries(group: str) -> Iterator[Entry]:
    """Give the entry points of `group`; the first distribution of a name on the path is the one that counts."""
    from importlib import metadata  # Slow to import, and not needed until a package is opened.

    try:
        found = list(metadata.entry_points(group=group))
    except Exception:  # noqa: BLE001 - one damaged distribution, and nothing is found; parsers raise what they like
        found = list(_one_by_one(group))
    for entry in found:
        yield Entry(entry.name, entry.value, *_whose(entry.dist))


def damaged() -> list[tuple[str, str]]:
    """List the distributions whose entry points cannot be read: where each lies, and why."""
    from importlib import metadata

    faults = []
    for distribution in metadata.distributions():
        try:
            list(distribution.entry_points)
        except Exception as error:  # noqa: BLE001 - as above
            faults.append((_place(distribution), f"{type(error).__name__}: {error}"))
    return faults


def _one_by_one(group: str) -> Iterator[metadata.EntryPoint]:
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        try:
            found = [entry for entry in distribution.entry_points if entry.group == group]
        except Exception:  # What a damaged file makes the parser raise is not documented.
            _logger.warning("the entry points of %s cannot be read", _place(distribution), exc_info=True)
            continue
        name, _ = _whose(distribution)
        if name == _NAMELESS or name not in seen:
            yield from found
        seen.add(name)


def _whose(distribution: metadata.Distribution | None) -> tuple[str, str]:
    try:
        facts = distribution.metadata if distribution is not None else None
        return (str(facts["Name"] or _NAMELESS), str(facts["Version"] or "")) if facts is not None else (_NAMELESS, "")
    except Exception:  # noqa: BLE001 - later Pythons raise for a missing key
        return _NAMELESS, ""


def _place(distribution: metadata.Distribution) -> str:
    return str(getattr(distribution, "_path", None) or _whose(distribution)[0])
