"""Print what a run of tox did and judge it: ``python .ci/report.py REPORTS [--strict]``.

REPORTS is the folder with tox's ``tox.json`` and one ``ENVIRONMENT.xml`` from pytest for each environment that came so
far. The last line is ``N passed, N failed, N skipped``, where an environment that broke outside its tests counts as
one failure. With ``--strict`` so does every gap: a missing interpreter, a skip that a complete machine would not have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

# The reason that conftest.py gives for tests marked gpu, and how a reason begins where no machine would help: the
# release that is pinned for this environment cannot do it. Any other skip means that something is not installed, or in
# the environments of oldest releases that it could not do this yet.
HARDWARE, RELEASE = "needs a GPU", "this release of "
OLDEST = "-oldest"


@dataclass(frozen=True)
class Tests:
    """What pytest counted in one environment."""

    passed: int = 0
    failed: int = 0
    expected_failures: int = 0
    skips: tuple[str, ...] = ()

    @classmethod
    def read(cls, report: Path) -> Tests:
        """Read pytest's report; an environment that never reached its tests left none."""
        if not report.exists():
            return cls()
        suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314 - pytest wrote it a moment ago
        total, failures, errors, skipped = (int(suite.get(n, 0)) for n in ("tests", "failures", "errors", "skipped"))
        reasons = [mark.get("message", "") for mark in suite.iter("skipped") if mark.get("type") != "pytest.xfail"]
        return cls(
            passed=total - failures - errors - skipped,
            failed=failures + errors,
            expected_failures=skipped - len(reasons),
            skips=tuple(reasons),
        )


@dataclass(frozen=True)
class Environment:
    """One tox environment: its end and its tests."""

    name: str
    success: bool
    missing: bool
    seconds: float
    tests: Tests

    @classmethod
    def read(cls, name: str, result: dict[str, Any], reports: Path) -> Environment:
        """Join what tox and pytest say about one environment."""
        tests = Tests.read(reports / f"{name}.xml")
        return cls(name, result["success"], result["skipped"], result["duration"], tests)

    def complaints(self, *, strict: bool) -> Iterator[str]:
        """Say what must not be, apart from failed tests."""
        if self.missing and strict:
            yield f"{self.name}: its interpreter is missing"
        if not (self.success or self.missing or self.tests.failed):
            yield f"{self.name}: broke outside its tests"
        if self.success and not self.missing and not self.tests.passed:
            yield f"{self.name}: no test passed"
        if strict and not self.name.endswith(OLDEST):
            gaps = sorted({reason for reason in self.tests.skips if not reason.startswith((HARDWARE, RELEASE))})
            yield from (f"{self.name}: skipped: {reason}" for reason in gaps)

    def row(self) -> str:
        """Give the line of the table."""
        if self.missing:
            return f"{self.name:18} not run: interpreter missing"
        tests = self.tests
        counts = (tests.passed, tests.failed, len(tests.skips), tests.expected_failures)
        return f"{self.name:18}" + "".join(f"{count:>9}" for count in counts) + f"{self.seconds:>9.1f}"


def read_environments(reports: Path) -> list[Environment]:
    """Read every test environment of the run, in the order in which tox names them."""
    journals = json.loads((reports / "tox.json").read_text())["testenvs"]
    return [
        Environment.read(name, journal["result"], reports) for name, journal in journals.items() if "result" in journal
    ]


def main(reports: Path, *, strict: bool) -> int:
    """Print table, complaints and closing line; the exit code is 1 if anything failed."""
    environments = read_environments(reports)
    complaints = [complaint for environment in environments for complaint in environment.complaints(strict=strict)]
    print(f"{'environment':18}   passed   failed  skipped   xfails  seconds")
    print(*(environment.row() for environment in environments), *complaints, sep="\n")
    passed = sum(environment.tests.passed for environment in environments)
    failed = sum(environment.tests.failed for environment in environments) + len(complaints)
    skipped = sum(len(environment.tests.skips) for environment in environments)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not environments else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), strict="--strict" in sys.argv[2:]))
