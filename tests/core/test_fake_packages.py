from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from neuropod_core import ModelLoadError, Package, Problem, load_neuropod
from neuropod_core.testing import fake_package, problems

NOTHING = Problem.of({}, {})


def test_a_fake_package_is_sound(tmp_path: Path) -> None:
    path = fake_package(tmp_path / "m", "calc", NOTHING, {"data/model.json": b"{}"}, name="made up")

    with Package.open(path) as package:
        package.verify()
        assert package.config.name == "made up"
        assert package.variant().artefact("data/model.json").read_bytes() == b"{}"


@given(problem=problems())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_fake_package_declares_any_problem(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = fake_package(tmp_path_factory.mktemp("fake") / "m", "calc", problem)

    with Package.open(path) as package:
        assert [spec.name for spec in package.config.problem.inputs] == [spec.name for spec in problem.inputs]


@pytest.mark.usefixtures("calc")
@pytest.mark.parametrize("files", [{}, {"data/model.json": b"{"}], ids=["missing", "damaged"])
def test_a_backend_is_shown_what_no_packager_would_write(files: dict[str, bytes], tmp_path: Path) -> None:
    path = fake_package(tmp_path / "m", "calc", NOTHING, files)

    with pytest.raises(ModelLoadError, match="is no calculation"):
        load_neuropod(path)


def test_a_fake_package_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        fake_package(tmp_path, "calc", NOTHING)
