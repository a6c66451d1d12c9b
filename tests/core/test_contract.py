"""A plugin that was written for the first contract works with every later core."""

from __future__ import annotations

import base64
import csv
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import (
    CONTRACT_VERSION,
    DeviceError,
    InferenceError,
    ModelLoadError,
    Neuropod,
    OptionError,
    PackagingError,
    PluginContractError,
    Problem,
    load_neuropod,
    packagers,
    plugins,
)

FROZEN = Path(__file__).parents[1] / "golden" / "plugin_contract_1_0"
RECORD = FROZEN / "frozen_calculator-1.0.0.dist-info" / "RECORD"
RECORDED = "6e36f30ee3c2d870fab715063264de939b909c0dcd71fbafc4f15ac66e32e842"
PROBLEM = Problem.of({"x": "float32[N]", "y": "float32[M]"}, {"result": "float32[N]", "calls": "int64[]"})
ONES = {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)}


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the plugin be installed, and nothing of it be left in this process."""
    monkeypatch.syspath_prepend(str(FROZEN))
    plugins.observers.cache_clear()
    yield
    plugins.observers.cache_clear()
    plugins._backends.clear()
    for name in ("frozen_calculator", "frozen_calculator_observer"):
        sys.modules.pop(name, None)


def written(path: Path, operation: str = "add", **arguments: Any) -> Path:
    packager: Any = packagers.create_formula_neuropod
    packager(neuropod_path=path, model_name="formula", operation=operation, problem=PROBLEM, **arguments)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Neuropod]:
    with load_neuropod(written(tmp_path / "m.neuropod"), options={"scale": 3}, trust="data") as loaded:
        yield loaded


def test_the_frozen_plugin_is_the_one_that_was_frozen() -> None:
    rows = [row for row in csv.reader(RECORD.read_text("utf-8").splitlines()) if row[1]]
    digests = {name: sha256((FROZEN / name).read_bytes()).digest() for name, _, _ in rows}

    assert sha256(RECORD.read_bytes()).hexdigest() == RECORDED
    assert {
        name: f"sha256={base64.urlsafe_b64encode(made).decode().rstrip('=')}" for name, made in digests.items()
    } == {name: digest for name, digest, _ in rows}


def test_frozen_plugin_is_found_and_described() -> None:
    (claim,) = (plugin for plugin in plugins.installed() if plugin.platform == "formula")
    descriptor = claim.backend().descriptor

    assert str(claim) == "frozen-calculator 1.0.0"
    assert (descriptor.trust.value, descriptor.devices, descriptor.stateful) == ("data", ("cpu",), True)
    assert plugins.check_framework(claim.backend()) == np.__version__


def test_frozen_plugin_packages_and_runs(model: Neuropod) -> None:
    first, second = model.infer(ONES), model.infer(ONES, ["calls"])

    assert first["result"].tolist() == [6.0, 6.0]
    assert {name: array.tolist() for name, array in second.items()} == {"calls": 2}
    assert model.stateful
    assert model.description["operation"] == "add"


def test_frozen_plugin_runs_its_test_data(tmp_path: Path) -> None:
    expected = {"result": np.full(2, 1, np.float32), "calls": np.array(1)}

    path = written(tmp_path / "m.neuropod", "multiply", test_input_data=ONES, test_expected_out=expected)

    with load_neuropod(path, trust="data") as model:
        assert model.test() == {"result": 0.0, "calls": 0.0}


def test_frozen_plugin_raises_what_it_did(model: Neuropod, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="the formula failed: .* - at x"):
        model.infer(ONES | {"y": np.ones(3, np.float32)})
    with pytest.raises(DeviceError, match="'cuda'"):
        load_neuropod(tmp_path / "m.neuropod", device="cuda", trust="data")
    with pytest.raises(OptionError, match="option 'scale' is an int"):
        load_neuropod(tmp_path / "m.neuropod", options={"scale": "much"}, trust="data")
    with pytest.raises(PackagingError, match="no formula: 'divide'") as raised:
        written(tmp_path / "other.neuropod", "divide")
    assert isinstance(raised.value.__cause__, ModelLoadError)


def test_frozen_observer_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "m.neuropod")
    observer: Any = sys.modules["frozen_calculator_observer"].Observer
    observer.loaded.clear()

    with load_neuropod(path, trust="data"):
        assert observer.loaded == ["formula"]


@pytest.mark.parametrize("core", [(1, 0), (1, 7), (2, 0), (2, 9)], ids=str)
def test_frozen_plugin_is_served_until_the_major_version_after_the_next(
    core: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "CONTRACT_VERSION", core)

    assert plugins.backend_for("formula").descriptor.platform == "formula"


def test_a_core_that_left_the_contract_behind_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "CONTRACT_VERSION", (3, 1))

    with pytest.raises(
        PluginContractError, match="written for contract 1.0, this core serves 3.1 .* frozen-calculator"
    ):
        plugins.backend_for("formula")


def test_the_contract_of_the_core_is_served_by_the_core() -> None:
    assert CONTRACT_VERSION >= (1, 0)
