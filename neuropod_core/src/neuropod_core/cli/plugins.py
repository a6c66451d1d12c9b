"""``neuropod plugins``: what is installed here, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._completion import complete_plugins
from neuropod_core.cli._options import json_option, limit_option, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, Table
from neuropod_core.cli.check import check
from neuropod_core.cli.doctor import doctor

if TYPE_CHECKING:
    from neuropod_core.cli._claims import Claim

__all__ = ["plugins"]

_COLUMNS = (
    "platform",
    "distribution",
    "version",
    "status",
    "framework",
    "trust",
    "devices",
    "options",
    "packagers",
    "reason",
)
_DESCRIBED = (
    "framework",
    "framework_versions",
    "install",
    "trust",
    "dtypes",
    "devices",
    "options",
    "packagers",
    "packs",
    "stateful",
)
_DEFAULT = "list"


class _WithDefault(click.Group):
    """A group in which `list` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command before options that are not the group's own."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


_EXAMPLES = """\b
Examples:
  neuropod plugins
  neuropod plugins --json
  neuropod plugins | awk -F'\\t' '$5 != "ok"'
  neuropod plugins show onnx
  neuropod plugins check neuropod-onnx --report onnx.json
  neuropod plugins doctor
"""
_STATUS = """\b
Status:
  ok            it can be used
  no-framework  the framework that it drives is missing, or of a version that it was not made for
  blocked       somebody blocked it, the reason says how
  broken        it cannot be imported, or breaks its contract
  conflict      another plugin claims the same platform: choose by --backend
"""


@click.group(cls=_WithDefault, epilog=_EXAMPLES, short_help="Tell what the plugins offer and what is wrong.")
def plugins() -> None:
    """Tell what the installed plugins offer and what is wrong with them; `list` may be left out."""


@plugins.command("list", epilog=_STATUS)
@limit_option
@json_option
@verbose_option
def list_(*, limit: float, as_json: bool) -> None:
    """List every claim to a platform; each plugin is imported in a process of its own, and no framework.

    In a pipe, each line is: plugin, platform, distribution, version, status, framework, trust, devices, options,
    packagers, reason.
    """
    from neuropod_core.cli._claims import claims

    found = claims(limit=limit)
    if not found:
        click.echo("no plugins are installed; run: pip install neuropod-onnx (or -torch, -tf, -python)", err=True)
    documents = [_document(claim) for claim in found]
    Output(as_json=as_json).show(Report({"plugins": documents}, _tables([_row(claim) for claim in found])))


@plugins.command(epilog=_STATUS)
@click.argument("name", metavar="NAME", shell_complete=complete_plugins)
@limit_option
@json_option
@verbose_option
def show(name: str, *, limit: float, as_json: bool) -> None:
    """Show all that is known of the plugin NAME: a distribution, or a platform that it serves.

    In a pipe, each line is the name of a fact and its value; what a plugin says of each platform begins with a line
    `platform`.
    """
    from neuropod_core.cli._claims import claims
    from neuropod_core.cli._subjects import named

    found = claims(limit=limit, only=named(name))
    blocks = [Facts(_facts(claim)) for claim in found]
    Output(as_json=as_json).show(Report({"plugins": [_document(claim) for claim in found]}, blocks))


def _tables(rows: list[tuple[str, ...]]) -> list[Table]:
    """Spread the fields of the plugins over tables that fit a terminal; in a pipe they stay together."""
    fields = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def table(*columns: str, of: list[dict[str, str]], **more: Any) -> Table:
        return Table("plugin", columns, [[row[column] for column in columns] for row in of], **more)

    return [
        table(
            "platform", "distribution", "version", "framework", "trust", "devices", "status", of=fields, plain_rows=rows
        ),
        table("platform", "options", "packagers", of=[row for row in fields if row["packagers"]], plain_rows=()),
        table("distribution", "platform", "reason", of=[row for row in fields if row["reason"]], plain_rows=()),
    ]


def _row(claim: Claim) -> tuple[str, ...]:
    facts = claim.facts
    return (
        claim.plugin.platform,
        claim.plugin.distribution,
        claim.plugin.version,
        claim.status,
        claim.framework,
        facts.get("trust", ""),
        " ".join(facts.get("devices", ())),
        " ".join(facts.get("options", ())),
        " ".join(facts.get("packagers", ())),
        str(claim.error["message"]) if claim.error else "",
    )


def _document(claim: Claim) -> dict[str, Any]:
    from neuropod_core.cli._subjects import suite_of

    plugin = claim.plugin
    known = {
        "platform": plugin.platform,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "target": plugin.target,
        "status": claim.status,
        "error": claim.error,
        "contract": claim.facts.get("contract"),
        "framework_distribution": claim.facts.get("framework_distribution"),
        "framework_version": claim.facts.get("framework_version"),
        "seconds": claim.facts.get("seconds"),
        "suite": suite_of(plugin),
    }
    return known | {name: claim.facts[name] for name in _DESCRIBED if claim.is_described}


def _facts(claim: Claim) -> list[tuple[str, ...]]:
    """Tell everything that is known, for people; what is empty is left out."""
    from neuropod_core.backend import CONTRACT_VERSION
    from neuropod_core.cli._subjects import suite_of

    facts, plugin = claim.facts, claim.plugin
    ours = ".".join(map(str, CONTRACT_VERSION))
    rows: list[tuple[str, ...]] = [
        ("platform", plugin.platform),
        ("distribution", plugin.distribution, plugin.version),
        ("plugin", plugin.target),
        ("status", claim.status, str(claim.error["message"]) if claim.error else ""),
        ("contract", facts.get("contract") or "", f"this core serves {ours}"),
        ("suite", suite_of(plugin) or "", f"run: neuropod plugins check {plugin.distribution}"),
        ("framework", claim.framework, facts.get("framework_versions", "")),
        ("install", facts.get("install", "")),
        ("trust", facts.get("trust", "")),
        ("dtypes", " ".join(facts.get("dtypes", ()))),
        ("devices", " ".join(facts.get("devices", ()))),
        ("stateful", "yes" if facts.get("stateful") else ""),
        *(("option", name, text) for name, text in facts.get("options", {}).items()),
        *(("packager", name, target) for name, target in facts.get("packagers", {}).items()),
        *(("packs", pattern, target) for pattern, target in facts.get("packs", {}).items()),
    ]
    return [row for row in rows if row[1]]


for _command in (check, doctor):
    plugins.add_command(_command)
