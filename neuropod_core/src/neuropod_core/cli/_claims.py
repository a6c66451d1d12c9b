"""What is known of an installed plugin: each was examined in a process of its own, see `_examination`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuropod_core.cli._errors import document_of
from neuropod_core.cli._examination import LIMIT, examined_all
from neuropod_core.errors import BackendConflictError, PluginBlockedError
from neuropod_core.plugins import Plugin, installed

__all__ = ["Claim", "claims"]


@dataclass(frozen=True)
class Claim:
    """A plugin's claim to a platform, tried.

    Attributes
    ----------
    status
        ``ok``, ``blocked``, ``broken``, ``conflict`` or ``no-framework``.
    error
        Why it is not ``ok``, as JSON knows an error.
    facts
        What came of its examination, see `examined`; empty if it is blocked.
    """

    plugin: Plugin
    status: str = "ok"
    error: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_described(self) -> bool:
        """Whether its descriptor is known."""
        return "trust" in self.facts

    @property
    def framework(self) -> str:
        """Name and version of the framework, as far as they are known."""
        names = self.facts.get("framework")
        if not names:
            return ""
        version = self.facts["framework_version"] or "not installed"
        return f"{self.facts['framework_distribution'] or names[0]} {version}"


def claims(*, limit: float = LIMIT, only: Sequence[Plugin] | None = None) -> list[Claim]:
    """Try every plugin that is installed, or `only` those; each has `limit` seconds."""
    everybody = installed()
    asked = everybody if only is None else only
    free = [plugin for plugin in asked if not plugin.blocked_by]
    facts = dict(zip(free, examined_all(free, limit=limit), strict=True))
    return [_judged(plugin, facts.get(plugin), everybody) for plugin in asked]


def _judged(plugin: Plugin, facts: Mapping[str, Any] | None, everybody: Sequence[Plugin]) -> Claim:
    if facts is None:
        return Claim(plugin, "blocked", document_of(PluginBlockedError(str(plugin), plugin.blocked_by)))
    if facts["error"]:
        return Claim(plugin, "broken", facts["error"], facts)
    rivals = [other for other in everybody if other.platform == plugin.platform and not other.blocked_by]
    if len(rivals) > 1:
        conflict = BackendConflictError(plugin.platform, tuple(rival.distribution for rival in rivals))
        return Claim(plugin, "conflict", document_of(conflict), facts)
    if facts["unfit"]:
        return Claim(plugin, "no-framework", facts["unfit"], facts)
    return Claim(plugin, "ok", None, facts)
