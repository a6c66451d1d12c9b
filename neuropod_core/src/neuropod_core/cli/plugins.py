"""``neuropod plugins``: what is installed here, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._errors import document_of, line_of
from neuropod_core.cli._options import json_option, verbose_option
from neuropod_core.cli._output import Output, Report, Table

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
"""
_STATUS = """\b
Status:
  ok            it can be used
  no-framework  the framework that it drives is missing, or of a version that it was not made for
  blocked       somebody blocked it, the reason says how
  broken        it cannot be imported, or breaks its contract
  conflict      another plugin claims the same platform: choose by --backend
"""


@click.group(cls=_WithDefault, epilog=_EXAMPLES)
def plugins() -> None:
    """Tell what the installed plugins offer; `list` may be left out."""


@plugins.command("list", epilog=_STATUS)
@json_option
@verbose_option
def list_(*, as_json: bool) -> None:
    """List every claim to a platform, importing plugins but no framework.

    In a pipe, each line is: plugin, platform, distribution, version, status, framework, trust, devices, options,
    packagers, reason.
    """
    from neuropod_core.cli._claims import claims

    shown = [_shown(claim) for claim in claims()]
    if not shown:
        click.echo("no plugins are installed; run: pip install neuropod-onnx (or -torch, -tf, -python)", err=True)
    rows = [row for row, _ in shown]
    Output(as_json=as_json).show(Report({"plugins": [document for _, document in shown]}, _tables(rows)))


def _shown(claim: Claim) -> tuple[tuple[str, ...], dict[str, Any]]:
    from neuropod_core.cli._claims import broken

    try:
        return _row(claim), _document(claim)
    except Exception as error:  # noqa: BLE001 - a descriptor may hold anything, and the others are to be seen
        claim = broken(claim.plugin, error)
        return _row(claim), _document(claim)


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
    descriptor = claim.backend.descriptor if claim.backend else None
    return (
        claim.plugin.platform,
        claim.plugin.distribution,
        claim.plugin.version,
        claim.status,
        claim.framework,
        descriptor.trust.value if descriptor else "",
        " ".join(descriptor.devices) if descriptor else "",
        " ".join(descriptor.options) if descriptor else "",
        " ".join(descriptor.packagers) if descriptor else "",
        line_of(claim.error) if claim.error else "",
    )


def _document(claim: Claim) -> dict[str, Any]:
    plugin, descriptor = claim.plugin, claim.backend.descriptor if claim.backend else None
    known = {
        "platform": plugin.platform,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "target": plugin.target,
        "status": claim.status,
        "error": document_of(claim.error) if claim.error else None,
        "framework_version": claim.framework_version,
    }
    if descriptor is None:
        return known
    return known | {
        "framework": list(descriptor.framework),
        "framework_versions": descriptor.framework_versions,
        "install": descriptor.install,
        "trust": descriptor.trust.value,
        "dtypes": sorted(descriptor.dtypes),
        "devices": list(descriptor.devices),
        "options": dict(descriptor.options),
        "packagers": dict(descriptor.packagers),
        "stateful": descriptor.stateful,
    }
