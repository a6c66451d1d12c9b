"""Over 20 000 hostile files, each read in a process with little memory: an error of ours, or what was packed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

HERE = Path(__file__).parent
BATCHES = {
    "archives.paths": 440,
    "archives.entries": 386,
    "archives.ends": 348,
    "archives.bombs": 26,
    "archives.mutated": 9000,
    "folders": 161,
    "configs.structured": 3107,
    "configs.bombs": 504,
    "configs.mutated": 3000,
    "manifests.structured": 369,
    "manifests.bombs": 504,
    "manifests.mutated": 1500,
    "tensors.safetensors": 2000,
    "tensors.rewritten": 2000,
    "tensors.pickles": 3000,
}


def test_hostile_cases_are_twenty_thousand() -> None:
    assert sum(BATCHES.values()) >= 20_000


@pytest.fixture
def ground() -> Iterator[Path]:
    """Give a folder in memory, where there is one: thousands of small files are written."""
    memory = "/dev/shm"  # noqa: S108 - a folder of its own below it
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="neuropod-") as folder:
        yield Path(folder)


def around(ground: Path) -> dict[str, bytes | None]:
    """What lies beside the packages and the cache: path -> content, None for folders."""
    beside = [path for path in ground.iterdir() if path.name not in ("in", "cache")]
    below = [inner for path in beside for inner in path.rglob("*")]
    return {str(path.relative_to(ground)): path.read_bytes() if path.is_file() else None for path in beside + below}


@pytest.mark.parametrize(("batch", "count"), BATCHES.items(), ids=BATCHES)
def test_hostile_batch_ends_in_our_errors(batch: str, count: int, ground: Path) -> None:
    for folder in ("canary", "home", "tmp"):
        (ground / folder).mkdir()
    (ground / "canary" / "secret.txt").write_bytes(b"secret")
    world = {**os.environ, "HOME": str(ground / "home"), "TMPDIR": str(ground / "tmp"), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [sys.executable, "-m", "hostile", batch, str(count), str(ground)],
        cwd=HERE,
        env={**world, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(batch, report)  # noqa: T201 - how many ran, and how they ended

    assert report["failures"] == []
    assert report["ran"] == count
    assert around(ground) == {"canary": None, "canary/secret.txt": b"secret", "home": None, "tmp": None}
    assert batch == "folders" or not any((ground / "in").iterdir())
    assert {path.name for path in (ground / "cache").iterdir()} <= {"v1"}
    assert not [path for path in (ground / "cache").rglob("*") if path.is_symlink()]
    assert not any(Path(path).exists() for path in ("/CANARY", "/etc/evil", "/evil"))


def test_hostile_archives_leave_nothing_half_unpacked(ground: Path) -> None:
    for part in ("in", "canary"):
        (ground / part).mkdir()

    subprocess.run(
        [sys.executable, "-m", "hostile", "archives.entries", "386", str(ground)],
        cwd=HERE,
        check=True,
        capture_output=True,
    )

    assert not any((ground / "cache" / "v1" / "unpacking").iterdir())
    for entry in (ground / "cache" / "v1" / "packages").iterdir():
        assert {path.name for path in entry.iterdir()} == {"content", "record.json"}
