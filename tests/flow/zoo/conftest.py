"""The model zoo: models of each framework, under one problem, on every platform that can express them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neuropod_core import Array, load_neuropod

if TYPE_CHECKING:
    from zoo_specimen import Feed, Run, Specimen, Write

# Packages of Python code hold these modules, and the tests import them.
sys.path.insert(0, str(Path(__file__).parent / "models"))


@pytest.fixture
def agree(tmp_path: Path, zoo_row: Callable[..., None]) -> Callable[[Specimen, str], None]:
    """Give the function that holds a package of a specimen against the framework run by hand, and records it."""

    def compare(specimen: Specimen, platform: str) -> None:
        path = tmp_path / "model.neuropod"
        if platform in specimen.cannot:
            if platform in specimen.writers:
                _fails(specimen, platform, path)
            zoo_row(**specimen.names(platform), reason=specimen.cannot[platform])
            return
        _quietly(specimen.writers[platform], path)
        difference = _largest_difference(specimen, path)
        zoo_row(**specimen.names(platform), difference=difference)

    return compare


def _quietly(write: Write, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Exporters warn of their own affairs.
        write(path)


def _fails(specimen: Specimen, platform: str, path: Path) -> None:
    try:
        _quietly(specimen.writers[platform], path)
        _largest_difference(specimen, path)
    except Exception:  # noqa: BLE001 - an exporter may raise anything; one that only seems to export gives other results
        return
    pytest.fail("it can be expressed after all: take it out of `cannot`")


def _largest_difference(specimen: Specimen, path: Path) -> float:
    run, largest = _made(specimen), 0.0
    with load_neuropod(path, trust="code") as model:
        assert model.problem == specimen.problem
        for feed in specimen.feeds:
            wanted, got = _called(run, feed), model.infer(dict(feed))
            assert got.keys() == wanted.keys()
            largest = max(largest, *(_difference(got[name], wanted[name], specimen.tolerance) for name in wanted))
    return largest


def _made(specimen: Specimen) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return specimen.by_hand()


def _called(run: Run, feed: Feed) -> Mapping[str, Any]:
    results: Mapping[str, Any] = run({name: np.array(array) for name, array in feed.items()})
    return results


def _difference(got: Array, wanted: Any, tolerance: float) -> float:
    wanted = np.asarray(wanted)
    assert (got.shape, got.dtype.name) == (wanted.shape, wanted.dtype.name)
    if got.dtype.kind in "Ob":
        np.testing.assert_array_equal(got, wanted)
        return 0.0
    one, other = got.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    return float(np.abs(one - other).max(initial=0.0))
