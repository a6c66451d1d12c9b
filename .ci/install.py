"""Install with pins, where those of a later file win: ``python .ci/install.py FILE... -- ARGUMENTS...``.

Each FILE is a constraint file, and ARGUMENTS are pip's. A pin that a marker excludes here replaces nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement  # pip is all that a new environment has.


def pins(path: Path) -> dict[str, str]:
    """Read a constraint file: name -> the line that holds on this Python."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    parsed = [(Requirement(line), line) for line in lines]
    return {pin.name: line for pin, line in parsed if pin.marker is None or pin.marker.evaluate()}


def main(files: list[Path], arguments: list[str]) -> int:
    """Run pip."""
    kept: dict[str, str] = {}
    for path in files:
        kept |= pins(path)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(kept.values()))
        file.flush()
        command = [sys.executable, "-I", "-m", "pip", "install", "--constraint", file.name, *arguments]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    cut = sys.argv.index("--")
    sys.exit(main([Path(name) for name in sys.argv[1:cut]], sys.argv[cut + 1 :]))
