from __future__ import annotations

import pytest

from neuropod_core import OptionError, Trust, TrustError
from neuropod_core.trust import check_trust


@pytest.mark.parametrize("given", Trust)
@pytest.mark.parametrize("needed", Trust)
def test_each_class_admits_those_before_it(given: Trust, needed: Trust) -> None:
    order = ["data", "graph", "code"]

    assert given.admits(needed) == (order.index(given) >= order.index(needed))


def test_what_is_not_admitted_is_refused_with_the_remedy() -> None:
    with pytest.raises(TrustError, match="needs trust 'code' \\(because\\), got 'graph' - at m; .*pass trust='code'"):
        check_trust(Trust.CODE, Trust.GRAPH, "because", "m")


@pytest.mark.parametrize("given", [Trust.GRAPH, Trust.CODE])
def test_the_environment_is_a_ceiling(given: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_TRUST", "data")

    check_trust(Trust.DATA, given, "", "m")
    with pytest.raises(TrustError, match="got 'data' .*NEUROPOD_TRUST=data forbids it"):
        check_trust(Trust.GRAPH, given, "", "m")


def test_the_environment_never_widens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_TRUST", "code")

    with pytest.raises(TrustError):
        check_trust(Trust.CODE, Trust.GRAPH, "", "m")


def test_an_unknown_class_is_refused_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="'all' is no trust class; use one of 'data', 'graph', 'code'"):
        Trust.parse("all")
    monkeypatch.setenv("NEUROPOD_TRUST", "none")
    with pytest.raises(OptionError, match="environment variable NEUROPOD_TRUST"):
        check_trust(Trust.DATA, Trust.CODE, "", "m")
