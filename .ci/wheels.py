"""Build wheels of old and new for pip to choose from: ``python .ci/wheels.py FOLDER KIND:DISTRIBUTION...``.

KIND is ``this`` (the checkout as it is), ``next`` (the checkout with its minor version raised, in a copy), or ``first``
(the first release, frozen in ``tests/skew/first/``; before there is one, the checkout as it is). With the constraints
of ``versions.txt`` beside the wheels, pip takes no others.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests" / "skew" / "first"


def main(folder: Path, wanted: list[str]) -> None:
    """Fill a folder with wheels, and with the constraints that name them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kind, _, distribution in (word.partition(":") for word in wanted):
        {"this": build, "next": build_next, "first": take_first}[kind](ROOT / distribution, folder)
    pins = sorted("==".join(wheel.name.split("-")[:2]) for wheel in folder.glob("*.whl"))
    (folder / "versions.txt").write_text("\n".join(pins) + "\n")


def build(distribution: Path, folder: Path) -> None:
    """Build one wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder.resolve())]
    subprocess.run(command, cwd=distribution, check=True)


def build_next(distribution: Path, folder: Path) -> None:
    """Build the wheel of the minor version that comes next."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(distribution, Path(scratch, distribution.name)))
        metadata = copy / "pyproject.toml"
        metadata.write_text(re.sub(r'(?m)^version = "(\d+)\.(\d+)\.\d+"$', raised, metadata.read_text(), count=1))
        build(copy, folder)


def raised(version: re.Match[str]) -> str:
    """Raise the minor version."""
    return f'version = "{version[1]}.{int(version[2]) + 1}.0"'


def take_first(distribution: Path, folder: Path) -> None:
    """Take the frozen wheel, if there is one."""
    frozen = list(FROZEN.glob(f"{distribution.name}-*.whl"))
    for wheel in frozen:
        shutil.copy(wheel, folder)
    if not frozen:
        build(distribution, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
