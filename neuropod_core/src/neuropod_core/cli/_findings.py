"""What may be wrong in an environment, each with its remedy: the checks of ``neuropod plugins doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuropod_core import hookspecs
from neuropod_core._entry_points import damaged, entries
from neuropod_core.cli._claims import Claim
from neuropod_core.cli._examination import OBSERVER, examined_all
from neuropod_core.plugins import BLOCKED_VARIABLE, Plugin

__all__ = ["Finding", "of_claims", "of_damage", "of_observers"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    check
        What was looked at: ``broken``, ``contract``, ``rivals``, ``cache``, ...
    subject
        The plugin, distribution, folder or variable that is to blame.
    what
        What is wrong with it.
    remedy
        What to do about it, in the imperative.
    note
        Whether it is only worth knowing: somebody wanted it so.
    """

    check: str
    subject: str
    what: str
    remedy: str
    note: bool = False


def of_claims(claims: Sequence[Claim], slow: float) -> Iterator[Finding]:
    """Tell what is wrong with plugins; an import that takes more than `slow` seconds is."""
    for claim in claims:
        yield from _of_status(claim, claims)
        yield from _of_manners(claim.plugin, claim.facts, slow)


def of_observers(limit: float, slow: float) -> Iterator[Finding]:
    """Tell what is wrong with the plugins that watch: each is imported wherever a model is loaded."""
    found = entries(hookspecs.OBSERVERS_GROUP)
    observers = [Plugin(entry.name, entry.distribution, entry.version, entry.value) for entry in found]
    free = [observer for observer in observers if not observer.blocked_by]
    for observer, facts in zip(free, examined_all(free, limit=limit, kind=OBSERVER), strict=True):
        if facts["error"]:
            yield _of_error("observer", observer, facts["error"])
        yield from _of_manners(observer, facts, slow)


def of_damage() -> Iterator[Finding]:
    """Name the distributions whose entry points cannot be read."""
    for place, reason in damaged():
        what = f"its entry points cannot be read, so its plugins are not found: {reason}"
        yield Finding("damaged", place, what, "reinstall the distribution, or remove this folder")


def _of_status(claim: Claim, claims: Sequence[Claim]) -> Iterator[Finding]:
    plugin, error = claim.plugin, claim.error
    if error is None:
        return
    if claim.status == "conflict":
        rivals = [other.plugin for other in claims if other.plugin.platform == plugin.platform]
        if plugin == rivals[0]:
            yield _conflict(plugin.platform, [rival.distribution for rival in rivals if not rival.blocked_by])
    elif claim.status == "blocked":
        remedy = f"if it is to be used, take it out of {BLOCKED_VARIABLE}"
        yield Finding("blocked", str(plugin), f"it is blocked by {plugin.blocked_by}", remedy, note=True)
    else:
        kinds = {"PluginContractError": "contract", "FrameworkNotFoundError": "framework"}
        kind = kinds.get(error["type"], "framework" if claim.status == "no-framework" else "broken")
        yield _of_error(kind, plugin, error)


def _conflict(platform: str, rivals: Sequence[str]) -> Finding:
    what = f"{len(rivals)} plugins claim platform {platform!r}: {', '.join(rivals)}"
    remedy = f"choose one wherever a model is loaded (--backend, backend=), or run: pip uninstall {rivals[-1]}"
    return Finding("conflict", ", ".join(rivals), what, remedy)


def _of_error(check: str, plugin: Plugin, error: Mapping[str, Any]) -> Finding:
    remedy = str(error.get("remedy") or "tell its author")
    what = str(error.get("reason") or error["message"]).removesuffix(f"; {remedy}")
    return Finding(check, str(plugin), what, remedy)


def _of_manners(plugin: Plugin, facts: Mapping[str, Any], slow: float) -> Iterator[Finding]:
    """Tell what a plugin does besides being found, though its users only asked for a model."""
    author = f"tell its author; until then, {BLOCKED_VARIABLE}={plugin.distribution} keeps it out"
    if facts.get("printed") and not facts.get("error"):
        what = f"importing {plugin.target} prints {_quoted(facts['printed'])}"
        yield Finding("prints", str(plugin), what, author)
    if facts.get("changed"):
        what = f"importing {plugin.target} changes {', '.join(facts['changed'])}"
        yield Finding("environment", str(plugin), what, author)
    if facts.get("eager"):
        what = f"importing {plugin.target} imports its framework ({', '.join(facts['eager'])}) before a model is loaded"
        yield Finding("eager", str(plugin), what, author)
    if facts.get("lost"):
        what = f"its descriptor lists packagers that are not there: {', '.join(facts['lost'])}"
        yield Finding("packager", str(plugin), what, "tell its author")
    seconds = facts.get("seconds")
    if seconds is not None and seconds > slow:
        what = f"importing {plugin.target} takes {seconds:.2g} s, more than {slow:g} s"
        yield Finding("slow", str(plugin), what, author)


def _quoted(text: str, most: int = 60) -> str:
    line = text.split("\n", maxsplit=1)[0]
    return repr(line if len(line) <= most else line[: most - 3] + "...")
