"""The original's layout, written by hand and by our packager: as a folder and as an archive, alone and side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import RequirementsError, load_neuropod
from neuropod_python import create_python_neuropod

Write = Callable[..., Path]

X = np.array([[1, 2], [3, 4]], np.float32)

SPECS: dict[str, Any] = {
    "input_spec": [{"name": "x", "dtype": "float32", "shape": [None, 2]}],
    "output_spec": [{"name": "y", "dtype": "float32", "shape": [None, 2]}],
}

# Relative and absolute imports, a package and a module beside it, data in a folder.
CODE = {
    "scaling/__init__.py": "",
    "scaling/entry.py": """
import numpy as np
from shared import OFFSET
from . import tools
from .deep.factors import factor
import scaling.tools as same

assert same is tools

def get_model(data_path):
    by = factor(data_path)
    def model(x):
        return {"y": tools.scaled(x, by) + OFFSET}
    return model
""",
    "scaling/tools.py": "def scaled(x, by):\n    return x * by\n",
    "scaling/deep/__init__.py": "",
    "scaling/deep/factors.py": """
import numpy as np
from ..tools import scaled
def factor(data_path):
    with open(data_path + "/numbers/factor.txt") as file:
        return scaled(np.float32(1), np.float32(file.read()))
""",
    "shared.py": "import numpy as np\nOFFSET = np.float32({offset})\n",
}


def _by_hand(path: Path, source: Path, ops: tuple[Path, ...], lock: str | None) -> None:
    """Write what the original tool wrote, nothing of ours: no problem, no manifest."""
    variant = path / "0"
    shutil.copytree(source / "code", variant / "code")
    shutil.copytree(source / "data", variant / "data")
    if lock is not None:
        (variant / "requirements.lock").write_text(lock)
    declared = {"entrypoint": "get_model", "entrypoint_package": "scaling.entry"}
    (variant / "config.json").write_text(json.dumps(declared, indent=4, sort_keys=True))
    for op in ops:
        (variant / "ops").mkdir(exist_ok=True)
        shutil.copyfile(op, variant / "ops" / op.name)
    config = {
        "name": "scaling",
        "platform": "python",
        "platform_version_semver": "*",
        "custom_ops": [op.name for op in ops],
        "input_tensor_device": {"x": "GPU"},
        **SPECS,
    }
    (path / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True))


def _by_packager(path: Path, source: Path, ops: tuple[Path, ...], lock: str | None) -> None:
    create_python_neuropod(
        neuropod_path=path,
        model_name="scaling",
        entrypoint="get_model",
        entrypoint_package="scaling.entry",
        code_path_spec=[{"python_root": source / "code", "dirs_to_package": ["scaling", "shared.py"]}],
        data_paths=[{"path": source / "data" / "numbers", "packaged_name": "numbers"}],
        custom_ops=list(map(str, ops)),
        requirements=lock,
        hashes=False,
        package_as_zip=False,
        **SPECS,
    )


@pytest.fixture(params=[_by_hand, _by_packager], ids=["by hand", "by packager"])
def write(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Give the function that writes a package: its factor, its offset, whether it is an archive."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))

    def written(
        factor: float = 2,
        offset: float = 0,
        *,
        ops: tuple[Path, ...] = (),
        lock: str | None = None,
        archive: bool = False,
        more: dict[str, str] | None = None,
    ) -> Path:
        root = tmp_path / f"{factor}-{offset}"
        for name, text in {**CODE, **(more or {})}.items():
            (root / "code" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "code" / name).write_text(text.replace("{offset}", str(offset)))
        (root / "data" / "numbers").mkdir(parents=True)
        (root / "data" / "numbers" / "factor.txt").write_text(str(factor))
        path = root / "scaling.neuropod"
        request.param(path, root, ops, lock)
        return _zipped(path) if archive else path

    return written


def _zipped(folder: Path) -> Path:
    """Pack a folder as the original did: entries sorted by path, dated 2000, no folders."""
    path = folder.with_suffix(".zip.neuropod")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), (2000, 1, 1, 0, 0, 0))
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_layout_of_the_original_runs(write: Write, archive: bool) -> None:
    with load_neuropod(write(3, 1, archive=archive), trust="code") as model:
        np.testing.assert_array_equal(model.infer({"x": X})["y"], X * 3 + 1)


def test_packages_of_equal_module_names_live_side_by_side(write: Write) -> None:
    with load_neuropod(write(3, 1), trust="code") as one, load_neuropod(write(5, 7), trust="code") as other:
        for _ in range(2):
            np.testing.assert_array_equal(one.infer({"x": X})["y"], X * 3 + 1)
            np.testing.assert_array_equal(other.infer({"x": X})["y"], X * 5 + 7)


def test_lock_is_optional_and_held_to(write: Write) -> None:
    with load_neuropod(write(lock=f"numpy=={np.__version__}\n"), trust="code") as model:
        assert model.infer({"x": X})["y"].shape == (2, 2)
    path = write(9)
    (path / "0" / "requirements.lock").write_text("numpy==1.0\n")
    (path / "manifest.json").unlink(missing_ok=True)

    with pytest.raises(RequirementsError, match=r"numpy 1\.0 \(installed "):
        load_neuropod(path, trust="code")


# -- custom ops: extension modules, which the code of the package imports by name

_EXTENSION = """
#include <Python.h>

static PyObject *triple(PyObject *self, PyObject *number) {
    double value = PyFloat_AsDouble(number);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(3 * value);
}

static PyMethodDef methods[] = {{"triple", triple, METH_O, "Three times a number."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "neuropod_test_triple", NULL, 0, methods};

PyMODINIT_FUNC PyInit_neuropod_test_triple(void) { return PyModuleDef_Init(&module); }
"""
_TOOLS = """
import neuropod_test_triple
def scaled(x, by):
    return x * type(by)(neuropod_test_triple.triple(float(by)) / 3)
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile an extension module for this Python."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("extension")
    (folder / "triple.c").write_text(_EXTENSION)
    built = folder / f"neuropod_test_triple{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = sysconfig.get_path("include")
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-I{headers}", str(folder / "triple.c"), "-o", str(built)], check=True
    )
    return built


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_custom_ops_of_the_layout_are_importable(write: Write, extension: Path, archive: bool) -> None:
    path = write(3, 1, ops=(extension,), more={"scaling/tools.py": _TOOLS}, archive=archive)

    with load_neuropod(path, trust="code") as model:
        np.testing.assert_array_equal(model.infer({"x": X})["y"], X * 3 + 1)


def test_custom_ops_of_two_packages_are_one(write: Write, extension: Path) -> None:
    more = {"scaling/tools.py": _TOOLS}
    paths = [write(factor, 0, ops=(extension,), more=more) for factor in (2, 4)]

    with load_neuropod(paths[0], trust="code") as one, load_neuropod(paths[1], trust="code") as other:
        np.testing.assert_array_equal(one.infer({"x": X})["y"] * 2, other.infer({"x": X})["y"])
