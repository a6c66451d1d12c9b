"""Archives whose tensors are longer than their bytes: torch would compute with what lies behind them in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuropod_core import ModelLoadError

DTYPES = [
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
]
Saved = Callable[[Any], Path]


class Weights(torch.nn.Module):
    """Has a buffer of each element type, weights enough for long numbers in the memo, a shared one and a constant."""

    def __init__(self) -> None:
        super().__init__()
        for name in DTYPES:
            self.register_buffer(f"of_{name}", torch.ones(3, dtype=getattr(torch, name)))
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(80))
        self.again = self.layers[0]
        self.words = [f"Q{number}" for number in range(300)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.again(x) + self.of_float32[0]


def rewritten(folder: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Change records of a saved archive; None leaves one out."""
    path = folder / "data" / "model.pt"
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)
    return folder


def open_(opened: Callable[..., Any], folder: Path) -> Any:
    return opened(folder, {"x": "float32[N, 4]"}, {"y": "float32[N, 4]"})


@pytest.fixture
def archive(saved: Saved) -> Path:
    return saved(Weights())


def records(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "data" / "model.pt") as archive:
        return [name for name in archive.namelist() if "/data/" in name and "/." not in name]


def test_whole_archive_of_every_type_opens(archive: Path, opened: Callable[..., Any]) -> None:
    assert open_(opened, archive).infer({"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 4)


@pytest.mark.parametrize("left", [0, -1])
def test_each_record_that_is_too_short_is_refused(left: int, archive: Path, opened: Callable[..., Any]) -> None:
    whole = (archive / "data" / "model.pt").read_bytes()
    for victim in records(archive)[:: 7 if left else 23] + records(archive)[: len(DTYPES)]:
        (archive / "data" / "model.pt").write_bytes(whole)
        rewritten(archive, lambda name, content: content[:left] if name == victim else content)  # noqa: B023 - called here

        with pytest.raises(ModelLoadError, match=rf"bytes of its record {victim.partition('/')[2]}, which has "):
            open_(opened, archive)


def test_tensor_that_says_it_is_longer_is_refused(saved: Saved, opened: Callable[..., Any]) -> None:
    folder = saved(torch.nn.Linear(4, 4))

    with pytest.raises(ModelLoadError, match="a tensor takes 508 bytes of its record data/0, which has 64"):
        open_(opened, rewritten(folder, lambda _, content: content.replace(b"K\x10tQ", b"K\x7ftQ")))


def test_two_records_of_one_name_are_refused(archive: Path, opened: Callable[..., Any]) -> None:
    with zipfile.ZipFile(archive / "data" / "model.pt", "a") as again, pytest.warns(UserWarning, match="Duplicate"):
        again.writestr(records(archive)[0], b"")

    with pytest.raises(ModelLoadError, match="two of its records have one name"):
        open_(opened, archive)


def test_record_that_is_missing_is_left_to_torch(archive: Path, opened: Callable[..., Any]) -> None:
    victim = records(archive)[0]

    with pytest.raises(ModelLoadError, match="torch .* cannot open the model"):
        open_(opened, rewritten(archive, lambda name, content: None if name == victim else content))
