"""Opening a large TorchScript file bare, against loading the package around it for the second time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from neuropod_core import Problem, load_neuropod
from neuropod_core.packagers import create_torchscript_neuropod
from neuropod_core.packaging import repack
from report import NEUROPOD, Row, added, plain
from timing import Effort, milliseconds, sampled

__all__ = ["measure"]

SUITE = "loading"
BARE = "torch.jit.load"
MAY_ADD_MS = 20.0
FLOATS_IN_A_GIGABYTE = 10**9 // 4
ROWS = 1000

_PROBLEM = Problem.of({"row": "int64[N]"}, {"values": "float32[N, W]"}, name="lookup")


class Lookup(nn.Module):
    """A table of random weights, from which rows are looked up."""

    def __init__(self, floats: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(ROWS, floats // ROWS, generator=torch.Generator().manual_seed(0)))

    def forward(self, row: Tensor) -> Tensor:
        """Give the rows."""
        return self.table[row]


def measure(effort: Effort) -> list[Row]:
    """Measure both forms of the package."""
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as name:
        folder = Path(name)
        tree, archive = folder / "tree.neuropod", folder / "archive.neuropod"
        _write(tree, int(effort.gigabytes * FLOATS_IN_A_GIGABYTE))
        repack(tree, archive, zip_compression="stored")
        bare = shutil.copyfile(tree / "0/data/model.pt", folder / "bare.pt")
        size = f"{effort.gigabytes:g} GB"
        return [
            *_compared(f"{size} folder", tree, bare, folder / "cache", effort),
            *_compared(f"{size} zip", archive, bare, folder / "cache", effort),
        ]


def _write(path: Path, floats: int) -> None:
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # TorchScript is what is measured here.
        module = torch.jit.script(Lookup(floats))
    create_torchscript_neuropod(
        neuropod_path=path, model_name="lookup", module=module, problem=_PROBLEM, package_as_zip=False
    )


def _compared(title: str, package: Path, bare: Path, cache: Path, effort: Effort) -> list[Row]:
    load = partial(_load, package, cache)
    first_ms = milliseconds(load)
    written = float(_bytes_written(load, cache))
    figures = sampled({BARE: partial(_open, bare), NEUROPOD: load}, effort.repetitions)
    return [
        added(SUITE, f"{title}, second load", figures, fixed=MAY_ADD_MS, unit="ms"),
        plain(SUITE, f"{title}, first load", "ms", first_ms),
        plain(SUITE, f"{title}, written by a second load", "bytes", written, target=0.0),
    ]


def _open(bare: Path) -> None:
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)
        torch.jit.load(str(bare))


def _load(package: Path, cache: Path) -> None:
    load_neuropod(package, cache_dir=cache).close()


def _bytes_written(step: Callable[[], object], cache: Path) -> int:
    """Count what this process writes meanwhile; a change in the cache that it did not see counts as one byte."""
    before, there = _written(), _snapshot(cache)
    step()
    return max(_written() - before, int(_snapshot(cache) != there))


def _written() -> int:
    """Give the bytes handed to any write, as Linux counts them."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["wchar"])


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    stats = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {name: (status.st_size, status.st_mtime_ns, status.st_ino) for name, status in stats.items()}
