"""``neuropod plugins check``: the conformance suite, run on what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._completion import complete_plugins
from neuropod_core.cli._errors import Code
from neuropod_core.cli._options import json_option, limit_option, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, Table, progress
from neuropod_core.cli._text import signal_name
from neuropod_core.errors import BackendError

if TYPE_CHECKING:
    from neuropod_core.plugins import Plugin

__all__ = ["check"]

_LIBRARIES = ("hypothesis", "ml_dtypes", "pytest")
_MOST_CRASHES = 8  # Each costs a run of the suite.
_RAN = (0, 1)  # What pytest exits with if it ran the tests: all passed, some failed.
_EPILOG = """\b
Examples:
  neuropod plugins check neuropod-onnx
  neuropod plugins check onnx --report onnx.json
  neuropod plugins check onnx --placement worker
  neuropod plugins check neuropod-mine --suite my_tests.conformance:TestMine
"""


@click.command(epilog=_EPILOG)
@click.argument("name", metavar="NAME", shell_complete=complete_plugins)
@click.option("--suite", metavar="MODULE:CLASS", help="A suite to run instead of those that the plugin ships.")
@click.option(
    "--placement",
    type=click.Choice(["in_process", "worker"]),
    default="in_process",
    show_default=True,
    help="Where the models of the suite run; in workers, every check starts some.",
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the report there as well.")
@limit_option
@json_option
@verbose_option
@click.pass_context
def check(
    context: click.Context,
    name: str,
    *,
    suite: str | None,
    placement: str,
    report: Path | None,
    limit: float,
    as_json: bool,
) -> None:
    """Run the conformance suite on the plugin NAME, a distribution or a platform, and tell how it did.

    The plugin names its suite by an entry point of the group `neuropod.tests`, and brings what it needs with an extra
    `[testing]`. Exits with 1 if a check failed; known gaps, declared with a reason, are no failures. In a pipe, each
    line is: result (failed, gap, inexpressible, skipped), check, reason; the first lines tell what ran.
    """
    from neuropod_core.cli._subjects import named

    output = Output(as_json=as_json)
    plugins = named(name)
    _refuse_broken(plugins, limit)
    suites = {suite} if suite else _suites(plugins)
    with progress(f"checking {name}"):
        document = _checked(suites, placement, verbose="-v" in sys.argv or "--verbose" in sys.argv)
    if report is not None:
        report.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    output.show(Report(document, list(_blocks(document))))
    if any(ran["failed"] for ran in document["suites"]):
        context.exit(Code.CHECK_FAILED)


def _refuse_broken(plugins: list[Plugin], limit: float) -> None:
    """Say what is wrong before a suite stumbles over it: a plugin that hangs would hold it up for ever."""
    from neuropod_core.cli._claims import claims

    for claim in claims(limit=limit, only=plugins):
        if claim.error is not None and claim.status != "conflict":
            raise BackendError(str(claim.error["message"]))
    missing = [library for library in _LIBRARIES if find_spec(library) is None]
    if missing:
        raise BackendError(f"the suite needs {', '.join(missing)}", remedy="run: pip install 'neuropod-core[testing]'")


def _suites(plugins: list[Plugin]) -> set[str]:
    from neuropod_core.cli._subjects import suite_of

    found = {suite for plugin in plugins if (suite := suite_of(plugin))}
    if not found:
        what = f"{plugins[0]} ships no conformance suite (no entry point in the group neuropod.tests)"
        raise BackendError(what, remedy="name one by --suite MODULE:CLASS")
    return found


def _checked(suites: Iterable[str], placement: str, *, verbose: bool) -> dict[str, Any]:
    """Run the suites; a check in which the process dies has failed, and the others are run without it."""
    titles = sorted(suites)
    crashed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="neuropod-check-") as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")  # Nothing above this folder configures the run.
        (folder / "test_conformance.py").write_text(_module(titles, placement), "utf-8")
        while (code := _pytest(folder, crashed, verbose=verbose)) < 0 and len(crashed) < _MOST_CRASHES:
            running = (folder / "running").read_text("utf-8") if (folder / "running").exists() else ""
            if not running or running in crashed:
                break
            crashed[running] = f"the process was ended by {signal_name(-code)}"
        try:
            document: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
        except (OSError, ValueError):
            document = {"suites": []}
        if code not in _RAN or not document["suites"]:
            raise _without_report(code, (folder / "said").read_text("utf-8", "replace"), crashed)
    for check, reason in crashed.items():
        _add_failure(document, titles, check, reason)
    return document


def _add_failure(document: Mapping[str, Any], titles: Sequence[str], check: str, reason: str) -> None:
    _, kind, name = check.split("::", 2)
    title = titles[int(kind.removeprefix("Test"))]
    ran = [suite for suite in document["suites"] if suite["suite"] == title] or document["suites"]
    for suite in ran:  # All of them, rather than none, if it cannot be told whose the check is.
        suite["failed"] = sorted([*suite["failed"], {"check": name, "reason": reason}], key=itemgetter("check"))


def _without_report(code: int, said: str, crashed: Mapping[str, str]) -> BackendError:
    """Say why there is none: the framework took the process with it again and again, or nothing could be imported."""
    if code < 0 or crashed:
        each = [f"in {check.rpartition('::')[2]}, {reason}" for check, reason in crashed.items()]
        what = f"the suite crashed: {'; '.join(each) or f'the process was ended by {signal_name(-code)}'}"
        return BackendError(what, remedy="add -v")
    lines = said.strip().splitlines()
    errors = [line for line in lines if line.startswith("E ")] or lines or ["see above"]
    return BackendError(f"the suite did not run: {errors[-1].removeprefix('E ').strip()}", remedy="add -v")


def _module(suites: list[str], placement: str) -> str:
    """Write a test module in which pytest finds the suites, whatever they are called."""
    lines = []
    for number, suite in enumerate(suites):
        module, _, kind = suite.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *kind.split("."))):
            raise BackendError(f"{suite!r} names no class", remedy="write it like package.module:Class")
        lines.append(f"import {module}\n")
        if placement == "worker":
            lines.append("from neuropod_core.testing import InWorker\n")
            lines.append(f"class Test{number}(InWorker, {module}.{kind}):\n    pass\n")
        else:
            lines.append(f"Test{number} = {module}.{kind}\n")
    return "".join(lines)


def _pytest(folder: Path, crashed: Iterable[str], *, verbose: bool) -> int:
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "neuropod_core.cli._running",
            "-p",
            "neuropod_core.pytest_report",
            "-p",
        ),
        *("no:cacheprovider", "-p", "no:randomly", "--rootdir", str(folder)),
        *("--neuropod-report", str(folder / "report.json")),
        *(("--verbose",) if verbose else ("--quiet", "--tb=short")),
        *(f"--deselect={check}" for check in crashed),
        str(folder / "test_conformance.py"),
    ]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with (folder / "said").open("wb") as said:
        streams["stdout"] = sys.stderr if verbose else said
        return subprocess.run(command, check=False, cwd=folder, **streams).returncode  # noqa: S603 - this interpreter


def _blocks(document: Mapping[str, Any]) -> Iterable[Facts | Table]:
    for ran in document["suites"]:
        framework = ran["framework"]
        yield Facts(
            [
                ("suite", ran["suite"]),
                ("platform", ran["platform"]),
                ("plugin", f"{ran['distribution']} {ran['version']}".strip()),
                ("framework", f"{framework['name']} {framework['version']}" if framework else "none"),
                ("core", ran["core"]),
                ("passed", len(ran["passed"])),
                ("seconds", f"{ran['seconds']:.1f}"),
            ]
        )
        titles = {"failed": "failed", "gap": "known_gaps", "inexpressible": "not_expressible", "skipped": "skipped"}
        rows = [(result, case["check"], case["reason"]) for result, key in titles.items() for case in ran[key]]
        yield Table("", ("result", "check", "reason"), rows, wide="reason")
