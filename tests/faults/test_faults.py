"""The harness for CI: some hundred faults in three minutes at most, and the calls after which memory is still flat."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]  # Workers import the model from here too.

from harness import Plan, State, as_text, run  # noqa: E402 - found there
from kinds import FAULTS, drawn  # noqa: E402 - found there
from soak import grown, soak  # noqa: E402 - found there

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_crossed_late_or_leaked() -> None:
    report = run(Plan(faults=250, seconds=120, seed=20))

    print(as_text(report))  # noqa: T201 - for whoever reads the log
    assert not report["complaints"]
    assert report["faults"] >= 5
    assert report["calls"]["answered"] > 100


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_nothing_is_lost_crossed_late_or_leaked_in_ten_thousand_faults() -> None:
    report = run(Plan(faults=10_000, seed=21, state=ROOT / "reports" / "faults.state.json"))

    (ROOT / "reports" / "faults.json").write_text(json.dumps(report, indent=1) + "\n")
    assert not report["complaints"]
    assert report["faults"] == 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "calls",
    [pytest.param(20_000), pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
    ids=["20-thousand", "a-million"],
)
def test_memory_of_both_sides_stays_flat(calls: int) -> None:
    samples = soak(calls)

    assert grown(samples) == {}


def test_a_plan_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    state = State(seed=5, done=17)
    state.faults["hang"] += 2
    state.write(tmp_path / "state.json")

    again = State.read(tmp_path / "state.json", 5)

    assert (again.done, again.faults) == (17, {"hang": 2})
    with pytest.raises(SystemExit, match="belongs to the seed 5, not to 6"):
        State.read(tmp_path / "state.json", 6)


def test_a_fault_follows_from_seed_and_number() -> None:
    drawn_twice = [[drawn(7, number)[0] for number in range(500)] for _ in range(2)]

    assert drawn_twice[0] == drawn_twice[1]
    assert set(drawn_twice[0]) == set(FAULTS)
