"""``neuropod plugins doctor``: what is wrong in this environment, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from neuropod_core.cli._errors import Code
from neuropod_core.cli._options import json_option, limit_option, verbose_option
from neuropod_core.cli._output import Output, Report, Table, progress

if TYPE_CHECKING:
    from neuropod_core.cli._claims import Claim
    from neuropod_core.cli._findings import Finding

__all__ = ["doctor"]

_EPILOG = """\b
Checks:
  broken       a plugin cannot be imported, hangs, crashes, or breaks its contract
  contract     a plugin was written for another contract
  conflict     several plugins claim one platform
  framework    a plugin's framework is missing, or of another version
  rivals       builds of one framework write over each other's files
  duplicate    a distribution is installed twice on the path
  group        entry points lie in a group that nothing reads
  damaged      what pip wrote about a distribution cannot be read
  environment  importing a plugin changes variables, the path or handlers
  prints       importing a plugin prints
  eager        importing a plugin imports its framework
  packager     a plugin lists a packager that is not there, as module:function
  slow         importing a plugin takes long
  observer     a plugin that watches cannot be used
  cache        archives cannot be unpacked for good
  variable     a NEUROPOD_ variable has a wrong value
  blocked      somebody blocked a plugin: told, and not counted as wrong

\b
Examples:
  neuropod plugins doctor
  neuropod plugins doctor --json | jq -r '.findings[] | .remedy'
"""


@click.command(epilog=_EPILOG)
@limit_option
@click.option(
    "--slow",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="An import that takes longer is told.",
)
@json_option
@verbose_option
def doctor(*, limit: float, slow: float, as_json: bool) -> None:
    """Look for what is wrong with plugins, frameworks, the cache and variables; tell how to mend it.

    Each plugin is imported in a process of its own: one that hangs, prints or crashes stops nothing. Exits with 1 if
    something is wrong. In a pipe, each line is: finding, check, subject, what is wrong, remedy.
    """
    from neuropod_core.cli._claims import claims

    with progress("examining the plugins"):
        found = claims(limit=limit)
        told = list(_findings(found, limit, slow))
    wrong = [finding for finding in told if not finding.note]
    rows = [(finding.check, finding.subject, finding.what, finding.remedy) for finding in told]
    document = {
        "plugins": len(found),
        "wrong": len(wrong),
        "findings": [asdict(finding) for finding in told],
    }
    Output(as_json=as_json).show(
        Report(document, [Table("finding", ("check", "subject", "what", "remedy"), rows, wide="what")])
    )
    _conclude(found, len(wrong))


def _findings(found: Sequence[Claim], limit: float, slow: float) -> Iterator[Finding]:
    from neuropod_core.cli._environment import of_cache, of_duplicates, of_groups, of_rivals, of_variables
    from neuropod_core.cli._findings import of_claims, of_damage, of_observers

    yield from of_damage()
    yield from of_groups()
    yield from of_claims(found, slow)
    yield from of_observers(limit, slow)
    yield from of_rivals(found)
    yield from of_duplicates(found)
    yield from of_cache()
    yield from of_variables()


def _conclude(found: Sequence[Claim], wrong: int) -> None:
    usable = sum(claim.status == "ok" for claim in found)
    summary = f"{usable} of {len(found)} plugins can be used"
    if wrong:
        click.echo(f"{summary}; {wrong} {'thing is' if wrong == 1 else 'things are'} wrong", err=True)
        raise click.exceptions.Exit(Code.CHECK_FAILED)
    click.echo(f"{summary}; nothing is wrong", err=True)
