"""``neuropod env``: the environments that are built from the locks of packages, and what a sandbox enforces here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from neuropod_core.cli._errors import Code
from neuropod_core.cli._options import ask_for_command, json_option, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, Table
from neuropod_core.cli._text import clean, human_bytes

if TYPE_CHECKING:
    from neuropod_core.environments import Kept

__all__ = ["env"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_EXAMPLES = """\b
Examples:
  neuropod env build digits.neuropod --trust code
  neuropod env export digits.neuropod            # wheels into digits.neuropod.wheels
  neuropod env build digits.neuropod --trust code --offline
  neuropod env list
  neuropod env prune --days 7
  neuropod env sandbox
"""


def _from_wheels(command: _Command) -> _Command:
    """Add the options that say what an environment is made of."""
    python = click.option(
        "--python",
        metavar="PATH",
        help="The interpreter, or an environment, to build it from; without it, the first that fits the lock.",
    )
    wheels = click.option(
        "--wheels",
        metavar="FOLDER",
        multiple=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="A folder with wheels; again for more. 0/wheels of the package and PACKAGE.wheels are looked at anyway.",
    )
    return python(wheels(command))


@click.group(
    epilog=_EXAMPLES, short_help="Build, list and remove environments of packages.", invoke_without_command=True
)
@click.pass_context
def env(context: click.Context) -> None:
    """Build the environment that the lock of a package describes, and keep house among those that were built.

    They lie in the cache (NEUROPOD_CACHE_DIR), of wheels alone, whose hashes are those of the lock.
    """
    ask_for_command(context)


@env.command()
@click.argument("package", metavar="PACKAGE")
@_from_wheels
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@click.option(
    "--trust",
    type=click.Choice(["data", "graph", "code"]),
    default="graph",
    show_default=True,
    help="It takes 'code': what is installed runs when the model does.",
)
@json_option
@verbose_option
def build(package: str, *, as_json: bool, **arguments: Any) -> None:
    """Build the environment of PACKAGE, or find it in the cache.

    Progress goes to stderr. In a pipe: key, python, folder, and whether it was built, one a line.
    """
    from neuropod_core.environments import environment_for
    from neuropod_core.package import Package

    output = Output(as_json=as_json)
    with output.claimed(), Package.open(package) as opened:
        environment = environment_for(opened, progress=_tell, **arguments)
    facts = {
        "key": environment.key,
        "python": environment.python.version,
        "executable": str(environment.python.executable),
        "folder": str(environment.folder),
        "built": environment.built,
        "seconds": environment.seconds,
    }
    environment.close()
    output.show(Report(facts, [Facts([*facts.items()])]))


@env.command()
@click.argument("package", metavar="PACKAGE")
@_from_wheels
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to; the folder PACKAGE.wheels without it.",
)
@json_option
@verbose_option
def export(package: str, *, as_json: bool, **arguments: Any) -> None:
    """Put every wheel that the environment of PACKAGE needs on this machine into a folder, hashes compared.

    Nothing is installed or run. Copy the folder beside the package on another machine, and it builds there offline.
    """
    from neuropod_core.environments import export_wheels
    from neuropod_core.package import Package

    output = Output(as_json=as_json)
    with output.claimed(), Package.open(package) as opened:
        files = export_wheels(opened, progress=_tell, **arguments)
    rows = [(str(path), path.stat().st_size) for path in files]
    document = {"wheels": [{"path": path, "bytes": size} for path, size in rows]}
    shown = [(path, human_bytes(size)) for path, size in rows]
    output.show(Report(document, [Table("wheel", ("wheel", "size"), shown, wide="wheel", plain_rows=rows)]))


@env.command("list")
@json_option
@verbose_option
def list_(*, as_json: bool) -> None:
    """List the environments in the cache.

    In a pipe, each line is: environment, key, name, python, bytes, status (in-use, ready, broken), last use, folder.
    """
    from neuropod_core.environments import kept_environments

    Output(as_json=as_json).show(_report("environment", kept_environments()))


@env.command()
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Remove what was not used for so long.",
)
@click.option("--all", "everything", is_flag=True, help="Remove all that no process uses.")
@json_option
@verbose_option
def prune(*, days: float, everything: bool, as_json: bool) -> None:
    """Remove environments and fetched wheels that were not used for a while, and what killed builders left.

    In a pipe, each line is as of `list`, with the word removed. Exits with 1 if something due could not be removed.
    """
    from neuropod_core.environments import kept_environments, prune_environments

    removed, wheels = prune_environments(days=days, everything=everything)
    report = _report("removed", removed)
    stuck = [kept for kept in kept_environments() if not kept.in_use and _is_due(kept, 0 if everything else days)]
    document = {**report.document, "wheels": wheels, "stuck": [str(kept.folder.parent) for kept in stuck]}
    Output(as_json=as_json).show(Report(document, report.blocks))
    for kept in stuck:
        _tell(f"{kept.folder.parent} cannot be removed: it, or the cache, is read-only or another user's")
    if stuck:
        raise click.exceptions.Exit(Code.CHECK_FAILED)


@env.command()
@json_option
@verbose_option
def sandbox(*, as_json: bool) -> None:
    """Tell what a sandbox enforces on this machine, or what stands in its way; exits with 1 in that case.

    In a pipe, each line is: enforced or missing, what.
    """
    from dataclasses import asdict

    from neuropod_core.sandbox import available

    report = available()
    rows = [*(("enforced", line) for line in report.enforced), *(("missing", line) for line in report.missing)]
    Output(as_json=as_json).show(Report({"complete": report.complete, **asdict(report)}, [Facts(rows)]))
    if not report.complete:
        raise click.exceptions.Exit(Code.CHECK_FAILED)


def _tell(line: str) -> None:
    click.echo(clean(line), err=True)


def _report(record: str, environments: list[Kept]) -> Report:
    document = {"environments": [_document(kept) for kept in environments]}
    plain = [
        (kept.key, kept.name, kept.python, kept.bytes, _status(kept), _date(kept), str(kept.folder))
        for kept in environments
    ]
    columns = ("key", "name", "python", "size", "status", "last use", "folder")
    rows = [(*row[:3], human_bytes(int(row[3])), *row[4:]) for row in plain]
    return Report(document, [Table(record, columns, rows, wide="folder", plain_rows=plain)])


def _document(kept: Kept) -> dict[str, Any]:
    return {
        "key": kept.key,
        "name": kept.name,
        "python": kept.python,
        "folder": str(kept.folder),
        "bytes": kept.bytes,
        "status": _status(kept),
        "used": _date(kept),
    }


def _status(kept: Kept) -> str:
    if not kept.whole:
        return "broken" if not kept.in_use else "in-use"
    return "in-use" if kept.in_use else "ready"


def _is_due(kept: Kept, days: float) -> bool:
    return not kept.whole or kept.used < time() - days * 86_400


def _date(kept: Kept) -> str:
    if not kept.used:
        return ""
    return datetime.fromtimestamp(kept.used, timezone.utc).isoformat(timespec="seconds")
