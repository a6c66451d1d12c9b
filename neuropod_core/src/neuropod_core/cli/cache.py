"""``neuropod cache``: what lies in the cache, room for more, and whether it is sound."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._errors import Code
from neuropod_core.cli._options import ask_for_command, json_option, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, Table, progress
from neuropod_core.cli._text import human_bytes

if TYPE_CHECKING:
    from neuropod_core._upkeep import Beginning, Entry, Upkeep

__all__ = ["cache"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_ABANDONED_SECONDS = 7 * _SECONDS["d"]
_KEY_CHARACTERS = 12

_EXAMPLES = """\b
Examples:
  neuropod cache list
  neuropod cache prune --older-than 30d --dry-run
  neuropod cache prune --max-size 10GB
  neuropod cache verify || neuropod cache prune
"""


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read ``30d``."""
    del context
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", (value or "").strip().lower(), re.ASCII)
    if value is not None and found is None:
        raise click.BadParameter(f"{value!r} is no time like 30d, 12h, 45m or 2w", param_hint=parameter.opts[0])
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read ``10GB`` (powers of ten) or ``10GiB`` (of two)."""
    del context
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", (value or "").strip().lower(), re.ASCII)
    if value is not None and found is None:
        raise click.BadParameter(f"{value!r} is no size like 10GB, 500MiB or 1048576", param_hint=parameter.opts[0])
    if found is None:
        return None
    return int(float(found[1]) * (1024 if found[3] else 1000) ** (" kmgt".index(found[2] or " ")))


_folder_option = click.option(
    "--cache-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cache to look at. Default: NEUROPOD_CACHE_DIR, or the user's cache folder.",
)


@click.group(epilog=_EXAMPLES, invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """See what lies in the cache, make room, look for damage."""
    ask_for_command(context)


@cache.command("list")
@_folder_option
@json_option
@verbose_option
def list_(*, cache_dir: Path | None, as_json: bool) -> None:
    """List the packages in the cache, and what is not fetched to its end; what was used last comes first.

    In a pipe, each line is: package, key, name, platform, bytes, last use, status (free, in use, damaged, unknown),
    sources; or: unfinished, source, bytes, last use, status. `cache verify` finds damage that sizes and times hide.
    """
    upkeep = _upkeep(cache_dir)
    entries, beginnings = upkeep.entries(), upkeep.beginnings()
    total = sum(entry.size for entry in entries) + sum(beginning.size for beginning in beginnings)
    document = {
        "folder": str(upkeep.folder),
        "bytes": total,
        "packages": [_document(entry) for entry in entries],
        "unfinished": [_unfinished(beginning) for beginning in beginnings],
    }
    facts = [("folder", str(upkeep.folder)), ("size", human_bytes(total), f"{total} bytes")]
    Output(as_json=as_json).show(Report(document, [*_tables(entries, beginnings), Facts(facts)]))


@cache.command()
@click.option(
    "--older-than", metavar="TIME", callback=_duration, help="Remove what was not used for 30d, 12h, 45m, 2w."
)
@click.option(
    "--max-size", metavar="SIZE", callback=_size, help="Remove what was not used longest, down to 10GB or so."
)
@click.option("--all", "everything", is_flag=True, help="Remove all that is not in use.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@_folder_option
@json_option
@verbose_option
def prune(
    *,
    older_than: float | None,
    max_size: int | None,
    everything: bool,
    dry_run: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove packages from the cache; they come again when they are needed.

    Without options, only what nobody can use is removed: damaged packages, what dead processes left, and transfers that
    nobody went on with for a week. A package that a live process has loaded is never removed, nor is a transfer under
    way. In a pipe, each line is: removed (kept, for what is in use; would-be-removed), name or source, bytes, key.
    """
    upkeep = _upkeep(cache_dir)
    with progress("pruning the cache"):
        chosen = _chosen(upkeep, older_than, max_size, everything=everything)
        done = [(one, one.in_use is False if dry_run else _removed(upkeep, one)) for one in chosen]
        dead = len(upkeep.dead())
        if not dry_run:
            upkeep.tidy()
    Output(as_json=as_json).show(_prune_report(done, dead, dry_run=dry_run))


@cache.command()
@click.option("--remove", is_flag=True, help="Remove what is damaged, unless it is in use.")
@_folder_option
@json_option
@verbose_option
def verify(*, remove: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Read every file in the cache and compare it with the hashes of its manifest.

    Exits with 1 if a package is damaged; --remove takes it away, and the next load unpacks it again. In a pipe, each
    line is: package, key, name, status (ok, damaged, removed), reason.
    """
    upkeep = _upkeep(cache_dir)
    checked = []
    for entry in upkeep.entries():
        with progress(f"verifying {entry.name or entry.key}"):
            reason = upkeep.damage(entry)
        removed = bool(reason) and remove and upkeep.remove(entry)
        checked.append((entry, "removed" if removed else "damaged" if reason else "ok", reason))
    documents = [{**_document(entry), "status": status, "reason": reason or None} for entry, status, reason in checked]
    rows = [(entry.key, entry.name, status, reason) for entry, status, reason in checked]
    people = [(entry.name, status, reason, entry.key[:_KEY_CHARACTERS]) for entry, status, reason in checked]
    table = Table("package", ("package", "status", "reason", "key"), people, wide="reason", plain_rows=rows)
    Output(as_json=as_json).show(Report({"folder": str(upkeep.folder), "packages": documents}, [table]))
    if any(reason for _, _, reason in checked):
        raise click.exceptions.Exit(Code.CHECK_FAILED)


def _upkeep(folder: Path | None) -> Upkeep:
    from neuropod_core._cache import default_root
    from neuropod_core._upkeep import Upkeep

    return Upkeep(folder or default_root())


# -- what goes --------------------------------------------------------------------------------------------------------


def _chosen(
    upkeep: Upkeep, older_than: float | None, max_size: int | None, *, everything: bool
) -> list[Entry | Beginning]:
    entries, beginnings, now = upkeep.entries(), upkeep.beginnings(), time.time()
    age = _ABANDONED_SECONDS if older_than is None else older_than
    chosen: list[Entry | Beginning] = [
        *(entry for entry in entries if everything or not entry.whole or _is_older(entry, older_than, now)),
        *(beginning for beginning in beginnings if everything or _is_older(beginning, age, now)),
    ]
    if max_size is not None:
        there: list[Entry | Beginning] = [*entries, *beginnings]
        rest = [one for one in there if one not in chosen]
        chosen += _beyond(rest, max_size)
    return chosen


def _is_older(one: Entry | Beginning, age: float | None, now: float) -> bool:
    return age is not None and now - one.used_at > age


def _beyond(rest: Sequence[Entry | Beginning], most: int) -> Iterator[Entry | Beginning]:
    """Give what was not used longest, until the rest fits; what is in use stays, and takes its room."""
    total = sum(one.size for one in rest)
    for one in sorted(rest, key=lambda one: one.used_at):
        if total <= most:
            return
        if one.in_use is False:
            total -= one.size
            yield one


def _removed(upkeep: Upkeep, one: Entry | Beginning) -> bool:
    from neuropod_core._upkeep import Entry

    return upkeep.remove(one) if isinstance(one, Entry) else upkeep.remove_beginning(one)


def _prune_report(done: Sequence[tuple[Entry | Beginning, bool]], dead: int, *, dry_run: bool) -> Report:
    removed = [_short(one) for one, gone in done if gone]
    kept = [_short(one) for one, gone in done if not gone]
    freed = sum(one.size for one, gone in done if gone)
    document = {"dry_run": dry_run, "freed_bytes": freed, "removed": removed, "kept": kept, "left_by_dead": dead}
    removal = "would-be-removed" if dry_run else "removed"
    rows = [
        (removal if gone else "kept", short["name"], short["bytes"], short["key"] or "")
        for (_, gone), short in ((pair, _short(pair[0])) for pair in done)
    ]
    people = [(what.replace("-", " "), name, human_bytes(size)) for what, name, size, _ in rows]
    verb = "would be freed" if dry_run else "freed"
    return Report(
        document,
        [
            Table("", ("", "package", "size"), people, plain_rows=rows),
            Facts([(verb, human_bytes(freed), f"{freed} bytes")]),
        ],
    )


def _short(one: Entry | Beginning) -> dict[str, Any]:
    name, key = getattr(one, "name", "") or getattr(one, "source", ""), getattr(one, "key", None)
    return {"name": name, "key": key, "bytes": one.size, "status": _status(one)}


# -- what is there ----------------------------------------------------------------------------------------------------


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "name": entry.name,
        "platform": entry.platform,
        "bytes": entry.size,
        "files": entry.files,
        "last_used": _iso(entry.used_at),
        "in_use": entry.in_use,
        "status": _status(entry),
        "sources": list(entry.sources),
        "folder": str(entry.folder / "content"),
    }


def _unfinished(beginning: Beginning) -> dict[str, Any]:
    return {
        "source": beginning.source,
        "bytes": beginning.size,
        "last_used": _iso(beginning.used_at),
        "status": _status(beginning),
        "folder": str(beginning.folder),
    }


def _status(one: Entry | Beginning) -> str:
    if not getattr(one, "whole", True):
        return "damaged"
    return {True: "in use", False: "free", None: "unknown"}[one.in_use]


def _tables(entries: Sequence[Entry], beginnings: Sequence[Beginning]) -> list[Table]:
    people = [
        (entry.name, entry.platform, human_bytes(entry.size), _ago(entry.used_at), _status(entry), entry.key[:12])
        for entry in entries
    ]
    rows = [
        (*(entry.key, entry.name, entry.platform, entry.size), _iso(entry.used_at), _status(entry), *entry.sources)
        for entry in entries
    ]
    unfinished = [(one.source, human_bytes(one.size), _ago(one.used_at), _status(one)) for one in beginnings]
    plain = [(one.source, one.size, _iso(one.used_at), _status(one)) for one in beginnings]
    return [
        Table("package", ("package", "platform", "size", "last used", "status", "key"), people, plain_rows=rows),
        Table("unfinished", ("not fetched to its end", "size", "last", "status"), unfinished, plain_rows=plain),
    ]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat().replace("+00:00", "Z")


def _ago(seconds: float) -> str:
    age = max(0.0, time.time() - seconds)
    for unit, name in (("d", "days"), ("h", "hours"), ("m", "minutes")):
        if age >= 2 * _SECONDS[unit]:
            return f"{int(age / _SECONDS[unit])} {name} ago"
    return "just now"
