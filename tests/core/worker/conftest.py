from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worker_lab
from worker_lab import Load
from worker_marks import TRANSPORTS

from neuropod_core import Neuropod, Problem, Worker, load_neuropod, plugins
from neuropod_core.testing import fake_package

PROBLEM = Problem.of(
    {
        "command": {"dtype": "string", "shape": [], "optional": True},
        "x": {"dtype": "float64", "shape": ["N"], "optional": True},
    },
    {
        "y": "float64[M]",
        "also": {"dtype": "float64", "shape": ["K"], "optional": True},
        "note": {"dtype": "string", "shape": [], "optional": True},
        "calls": {"dtype": "int64", "shape": [], "optional": True},
    },
    name="lab",
)


@pytest.fixture(autouse=True)
def _lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Register the lab as a plugin, by a name that workers import too."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    plugins.register(worker_lab, "lab")
    yield
    plugins.unregister("lab")


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Path]:
    """Write a package of the lab; keywords go into the config of its variant."""

    def write(**config: object) -> Path:
        path = tmp_path / f"lab{len(list(tmp_path.glob('lab*')))}.neuropod"
        files = {"0/config.json": json.dumps(config).encode()}
        return fake_package(path, "lab", PROBLEM, {"config.json": files["0/config.json"]}, name="lab")

    return write


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Give every transport that there is, one after another."""
    return str(request.param)


@pytest.fixture
def load(package: Callable[..., Path], transport: str) -> Iterator[Load]:
    """Load the lab in a worker; keywords are those of `Worker`, but for `config` and `checks`."""
    models: list[Neuropod] = []

    def loaded(*, config: dict[str, object] | None = None, checks: bool = True, **settings: Any) -> Neuropod:
        place = Worker(**{"transport": transport, **settings})
        model = load_neuropod(package(**(config or {})), placement=place, checks=checks)
        models.append(model)
        return model

    yield loaded
    for model in models:
        model.close()
