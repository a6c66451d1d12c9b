"""Nothing is imported before it is needed, with every plugin installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FRAMEWORKS = {"torch", "tensorflow", "keras", "onnxruntime", "onnx", "sklearn"}
RUNTIMES = {"onnx": "onnxruntime", "tensorflow": "tensorflow", "torchscript": "torch"}


def modules_after(statement: str) -> set[str]:
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(finished.stdout))


@pytest.mark.parametrize(
    "statement",
    [
        "import neuropod_core",
        "from neuropod_core import *",
        "from neuropod_core import plugins; [plugin.backend().descriptor for plugin in plugins.installed()]",
        "from neuropod_core import packagers; packagers.available()",
        "import neuropod_torch, neuropod_tf, neuropod_onnx, neuropod_python",
    ],
    ids=["core", "every public name", "descriptors", "packagers", "plugins"],
)
def test_no_framework_is_imported_by(statement: str) -> None:
    assert not modules_after(statement) & FRAMEWORKS


def test_core_does_not_import_plugins() -> None:
    modules = modules_after("from neuropod_core import load_neuropod")

    assert not {name for name in modules if name.startswith("neuropod_") and not name.startswith("neuropod_core")}


@pytest.mark.parametrize("platform", RUNTIMES)
def test_opening_a_package_imports_no_other_framework(write: Callable[..., Path], platform: str) -> None:
    path = write(platform, "affine")

    loaded = modules_after(f"from neuropod_core import load_neuropod; load_neuropod({str(path)!r}).close()")

    assert loaded & set(RUNTIMES.values()) == {RUNTIMES[platform]}
