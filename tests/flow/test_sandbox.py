"""Every framework computes in a cage what it computes outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuropod_core import Package, load_neuropod, sandbox

CAGED = """
import sys
from pathlib import Path
from neuropod_core import sandbox
scratch, package = map(Path, sys.argv[1:])
sandbox.enforce(scratch, readable=sandbox.readable_for_python(package))
import numpy as np
from neuropod_core import load_neuropod
with load_neuropod(package, trust="code") as model:
    np.save(scratch / "y.npy", model.infer({"x": np.load(scratch / "x.npy")})["y"])
"""


@pytest.mark.skipif(not sandbox.available().complete, reason=f"{sandbox.available().missing}")
def test_model_computes_the_same_in_a_cage(platform: str, write: Callable[..., Path], tmp_path: Path) -> None:
    scratch, x = tmp_path / "scratch", np.arange(8, dtype=np.float32).reshape(2, 4)
    scratch.mkdir()
    np.save(scratch / "x.npy", x)
    with Package.open(write(platform, "affine")) as archive:
        package = archive.folder()  # Unpacked outside: files cannot be made read-only in a cage.
    with load_neuropod(package, trust="code") as model:
        expected = model.infer({"x": x})["y"]
    ran = subprocess.run(
        [sys.executable, "-c", CAGED, scratch, package],
        check=False,
        capture_output=True,
        text=True,
        env=sandbox.clean_environment({**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, scratch),
    )

    assert ran.returncode == 0, ran.stderr
    np.testing.assert_array_equal(np.load(scratch / "y.npy"), expected)


@pytest.mark.skipif(not sandbox.available().complete, reason=f"{sandbox.available().missing}")
def test_model_computes_the_same_in_a_sandboxed_worker(platform: str, write: Callable[..., Path]) -> None:
    package, x = write(platform, "affine"), np.arange(8, dtype=np.float32).reshape(2, 4)
    with load_neuropod(package, trust="code") as model:
        expected = model.infer({"x": x})["y"]
    with load_neuropod(package, placement="worker", trust="sandboxed") as model:
        np.testing.assert_array_equal(model.infer({"x": x})["y"], expected)
