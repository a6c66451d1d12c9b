"""The benchmarks run, and write down what they measured; no test depends on how fast a machine is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "record.json"
    finished = run("core", "--quick", "--json", str(path))
    assert finished.returncode == 0, finished.stderr
    return {"printed": finished.stdout, **json.loads(path.read_text())}


def test_benchmark_of_the_core_says_where_and_with_what_it_ran(record: dict[str, Any]) -> None:
    assert record["command"].endswith("core --quick --json " + record["command"].split()[-1])
    assert {"processor", "cores", "system", "load"} <= set(record["machine"])
    assert {"python", "numpy", "neuropod-core"} <= set(record["versions"])


def test_benchmark_of_the_core_measures_what_was_promised(record: dict[str, Any]) -> None:
    promised = {row["case"]: row["target"] for row in record["results"] if row["target"] is not None}

    assert promised == {"two in, one out": 1.0, "ten in, ten out": 3.0}


def test_benchmark_of_the_core_gives_medians_spread_and_verdicts(record: dict[str, Any]) -> None:
    for row in record["results"]:
        assert 0 < row["reference"] < row["neuropod"]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["medians"]["neuropod"] == row["neuropod"]
        assert row["verdict"] in (("met", "MISSED") if row["target"] else ("",))
        assert row["case"] in record["printed"]


def test_benchmarks_refuse_a_suite_that_they_do_not_know() -> None:
    finished = run("fortran")

    assert finished.returncode == 2
    assert "no suite is called fortran" in finished.stderr
