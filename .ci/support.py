"""Write the support table between its markers: ``python .ci/support.py README REPORT...``.

A REPORT is what ``pytest -p neuropod_core.pytest_report --neuropod-report`` wrote. Suites of distributions that are not
ours, and all but the newest Python for one release of a framework, are left out; a suite that failed is an error. Where
a framework is slow to start, most checks in workers are left to the long run, which reports them all:
``pytest -m "long or not long" -k InWorker`` in a plugin's tests.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = {path.parent.name.replace("_", "-") for path in ROOT.glob("plugins/*/pyproject.toml")}
PLACE = re.compile(r"(?s)(?<=<!-- support: written by nox -s support -->\n).*?(?=<!-- end of support -->)")
HEAD = """\
| platform | run by | checks passed | in a worker | known gaps | not expressible |
|---|---|---|---|---|---|
"""

Suite = dict[str, Any]


def main(readme: Path, reports: list[Path]) -> None:
    """Rewrite the section."""
    suites = [suite for path in reports for suite in json.loads(path.read_text())["suites"]]
    ours = [suite for suite in suites if suite["distribution"] in OURS]
    if broken := [
        f"{suite['suite']}: {suite[kind][0]}" for suite in ours for kind in ("failed", "skipped") if suite[kind]
    ]:
        sys.exit("not every check ran and passed: " + "; ".join(broken))
    if missing := OURS - {suite["distribution"] for suite in ours}:
        sys.exit(f"no report of {', '.join(sorted(missing))}; run: nox -s tests")
    in_workers: dict[tuple[str, str], int] = {}
    for suite in ours:
        if suite["placement"] == "worker":
            in_workers[release(suite)] = max(len(suite["passed"]), in_workers.get(release(suite), 0))
    rows = [row(suite, in_workers.get(release(suite), 0)) for suite in newest(ours)]
    readme.write_text(PLACE.sub(lambda _: HEAD + "".join(rows), readme.read_text()))


def release(suite: Suite) -> tuple[str, str]:
    """Name the platform and the release of its framework."""
    return suite["platform"], framework(suite)


def newest(suites: Iterable[Suite]) -> list[Suite]:
    """Keep one suite for each release of a framework, and put the newest release of each platform first."""
    here = [suite for suite in suites if suite["placement"] == "in_process"]
    kept = {release(suite): suite for suite in sorted(here, key=lambda s: numbers(s["python"]))}
    by_release = sorted(kept.values(), key=lambda suite: numbers(framework(suite)), reverse=True)
    return sorted(by_release, key=lambda suite: str(suite["platform"]))


def row(suite: Suite, in_workers: int) -> str:
    """Give one line of the table."""
    python = ".".join(suite["python"].split(".")[:2])
    run_by = ", ".join(filter(None, [framework(suite), f"Python {python}"]))
    gaps, inexpressible = reasons(suite["known_gaps"]), reasons(suite["not_expressible"])
    counts = f"{len(suite['passed'])} | {in_workers or ''}"
    return f"| `{suite['platform']}` | {run_by} | {counts} | {gaps} | {inexpressible} |\n"


def framework(suite: Suite) -> str:
    """Name the framework and its release; empty if there is none."""
    found = suite["framework"]
    return f"{found['name'].replace('_', '-')} {found['version'].partition('+')[0]}" if found else ""


def reasons(checks: list[dict[str, str]]) -> str:
    """Say which checks are not passed, and why, each check once."""
    said = {f"`{check['check'].removesuffix('[standard]')}`: {check['reason']}" for check in checks}
    return "; ".join(sorted(said)) or "none"


def numbers(version: str) -> list[int]:
    """Give the numbers of a version, to compare it."""
    return [int(number) for number in re.findall(r"\d+", version)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
