"""Damaged artefacts of each platform, opened and called in child processes: an error of ours, or results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuropod_core import Problem
from neuropod_core.testing.damage import Report, try_damaged
from neuropod_torch.export_packagers import create_torch_aoti_neuropod, create_torch_export_neuropod
from neuropod_torch.packagers import create_torchscript_neuropod

PACKAGERS: dict[str, Callable[..., None]] = {
    "torchscript": create_torchscript_neuropod,
    "torch_export": create_torch_export_neuropod,
    "torch_aoti": create_torch_aoti_neuropod,
}
IN_EVERY_RUN, IN_THE_LONG_RUN = 24, 2000


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def tried(platform: str, numbers: Iterable[int], work: Path) -> Report:
    path = work / "sound.neuropod"
    PACKAGERS[platform](
        neuropod_path=path,
        model_name="m",
        module=Net().eval(),
        problem=Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 2]"}),
        test_input_data={"x": np.ones((3, 4), np.float32)},
    )
    return try_damaged(path, numbers, work=work, artefact=f"0/data/model.pt{'' if platform == 'torchscript' else '2'}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("platform", ["torchscript", "torch_export"])
def test_damaged_artefacts_end_in_our_errors(platform: str, tmp_path: Path) -> None:
    report = tried(platform, range(IN_EVERY_RUN), tmp_path)

    assert report.wrong == report.died == []
    assert report.ran == IN_EVERY_RUN
    assert report.ended["ModelLoadError"] > IN_EVERY_RUN / 4


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("platform", PACKAGERS)
def test_two_thousand_damaged_artefacts_end_in_our_errors(platform: str, tmp_path: Path, record_property: Any) -> None:
    report = tried(platform, range(IN_THE_LONG_RUN), tmp_path)
    record_property("ended", dict(report.ended))
    print(platform, dict(report.ended), *report.died[:10], sep="\n")  # noqa: T201 - what the documentation tells

    assert report.wrong == []
    assert report.ran == IN_THE_LONG_RUN
