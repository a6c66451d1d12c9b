"""A pytest plugin that writes down how backends did in the conformance suite.

::

    pytest -p neuropod_core.pytest_report --neuropod-report report.json

It is loaded where it is named and nowhere else, so a test run that does not ask for it pays nothing. The report is one
JSON object; its ``suites`` has one object for each subclass of `BackendTests` that ran, with the ``placement`` of its
models and lists of ``passed``, ``failed``, ``known_gaps``, ``not_expressible`` and ``skipped`` checks. Works under
pytest-xdist as well.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ConformanceReport", "pytest_addoption", "pytest_configure"]

_PROPERTY = "neuropod_suite"
_INEXPRESSIBLE = "not expressible: "
_MOST_CHARACTERS = 2000
_LISTS = ("passed", "failed", "known_gaps", "not_expressible", "skipped")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--neuropod-report FILE``."""
    group = parser.getgroup("neuropod")
    group.addoption("--neuropod-report", metavar="FILE", help="Write how backends did in the conformance suite.")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the run if a report was asked for; a worker of pytest-xdist only marks its tests."""
    if file := config.getoption("--neuropod-report"):
        is_worker = hasattr(config, "workerinput")
        config.pluginmanager.register(ConformanceReport(None if is_worker else Path(file)), "neuropod-report")


class ConformanceReport:
    """Collects the results of one run, and writes them when it ends.

    Parameters
    ----------
    file
        Where the report goes; None to mark tests and write nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file and file.absolute()
        self._suites: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the tests that belong to a conformance suite with the suite's name and subject."""
        for item in items:
            suite = getattr(item, "cls", None)
            if suite is not None and _is_suite(suite):
                marks = [_title(suite), suite.platform, suite.distribution, _placement(suite)]
                item.user_properties.append((_PROPERTY, marks))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a result: that of the call, or of a part before or after it that went wrong."""
        marked = dict(report.user_properties).get(_PROPERTY)
        if not isinstance(marked, list | tuple) or self._file is None:
            return
        suite = self._suites.setdefault(marked[0], _begun(*marked))
        suite["seconds"] += report.duration
        if report.when == "call" or report.outcome != "passed":
            kind, reason = _result(report)
            check = report.nodeid.rpartition("::")[2]
            suite[kind].append(check if kind == "passed" else {"check": check, "reason": reason})

    def pytest_sessionfinish(self) -> None:
        """Write the report."""
        if self._file is not None:
            suites = [_ended(suite) for _, suite in sorted(self._suites.items())]
            self._file.write_text(json.dumps({"format": 1, "suites": suites}, indent=2) + "\n", "utf-8")


def _is_suite(kind: object) -> bool:
    testing = sys.modules.get("neuropod_core.testing")
    return testing is not None and isinstance(kind, type) and issubclass(kind, testing.BackendTests)


def _title(suite: type) -> str:
    """Name the class where it is written, not the module that hands it to pytest."""
    return f"{suite.__module__}:{suite.__qualname__}"


def _placement(suite: type) -> str:
    placement = getattr(suite, "placement", "in_process")
    return placement if isinstance(placement, str) else type(placement).__name__.lower()


def _begun(title: str, served: str, distribution: str, placement: str) -> dict[str, Any]:
    return {
        "suite": title,
        "platform": served,
        "placement": placement,
        **_subject(served, distribution),
        "core": metadata.version("neuropod-core"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": 0.0,
        **{name: [] for name in _LISTS},
    }


def _subject(served: str, distribution: str) -> dict[str, Any]:
    """Describe the plugin under test, as far as it can be had."""
    from neuropod_core import plugins

    facts: dict[str, Any] = {"distribution": distribution, "version": "", "contract": None, "framework": None}
    with suppress(Exception):  # The checks tell what is wrong with it.
        claims = [claim for claim in plugins.installed() if claim.platform == served]
        wanted = plugins.normalized(distribution)
        claim = next(claim for claim in claims if wanted in ("", plugins.normalized(claim.distribution)))
        facts |= {"distribution": claim.distribution, "version": claim.version}
        facts["contract"] = ".".join(map(str, getattr(claim.imported(), "neuropod_contract", ()))) or None
        backend = claim.backend()
        names = backend.descriptor.framework
        facts["framework"] = {"name": _found(names), "version": backend.framework_version()} if names else None
    return facts


def _found(names: tuple[str, ...]) -> str:
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            return str(metadata.distribution(name).metadata["Name"])
    return names[0]


def _result(report: pytest.TestReport) -> tuple[str, str]:
    if report.outcome == "passed":
        return "passed", ""
    if report.outcome == "failed":
        return "failed", _why(report)
    expected = getattr(report, "wasxfail", None)
    if expected is None:
        return "skipped", _skipped(report)
    reason = str(expected).removeprefix("reason: ")
    if reason.startswith(_INEXPRESSIBLE):
        return "not_expressible", reason.removeprefix(_INEXPRESSIBLE)
    return "known_gaps", reason


def _why(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr).strip()[:_MOST_CHARACTERS]


def _skipped(report: pytest.TestReport) -> str:
    parts = report.longrepr
    return str(parts[2]).removeprefix("Skipped: ") if isinstance(parts, tuple) else _why(report)


def _ended(suite: Mapping[str, Any]) -> dict[str, Any]:
    lists = {name: sorted(suite[name], key=_check_of) for name in _LISTS}
    return {**suite, "seconds": round(suite["seconds"], 3), **lists}


def _check_of(case: str | Mapping[str, str]) -> str:
    return case if isinstance(case, str) else case["check"]
