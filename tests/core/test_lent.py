from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import InterpreterError, Package, Trust, WorkerStartError, sandbox
from neuropod_core.environments import Lent, _lent, lent_to, python_of
from neuropod_core.environments._pythons import uv
from neuropod_core.placement.worker._foreign import foreign_backend, home_for

VERSIONS = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())) / "versions"
EVERY_PYTHON = sorted(path for path in VERSIONS.glob("3.1[0-3].*"))
OLDER = [path for path in EVERY_PYTHON if path.name.startswith("3.10.")]
PLUGIN = """
from neuropod_core import Backend, Descriptor, Trust, hookimpl
neuropod_contract = (1, 0)
class Borrowed(Backend):
    descriptor = Descriptor(platform="borrowed", trust=Trust.DATA)
    def load(self, variant, options): raise NotImplementedError
@hookimpl
def neuropod_backend(platform): return Borrowed()
"""
BORROWER = """
import json, sys
sys.path += sys.argv[1:]
import numpy, neuropod_core, packaging, pluggy
from importlib import metadata
from importlib.util import find_spec
from neuropod_core import plugins, Problem
from neuropod_core.plugins import backend_for
Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
print(json.dumps({
    "files": {m.__name__: m.__file__ for m in (numpy, neuropod_core, packaging, pluggy)},
    "core": neuropod_core.__version__,
    "plugins": [[p.platform, p.distribution, p.version] for p in plugins.installed()],
    "backend": backend_for("borrowed").descriptor.platform,
    "packaging": metadata.version("packaging"),
    "others": [name for name in ("pytest", "hypothesis", "click", "onnxruntime", "pip", "coverage") if find_spec(name)],
    "python": sys.version.split()[0],
}))
"""

if sys.platform == "win32":
    pytest.skip("links of POSIX", allow_module_level=True)


def site_of(venv: Path) -> Path:
    (site,) = venv.glob("lib/python*/site-packages")
    return site


@pytest.fixture(scope="module")
def with_numpy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a virtual environment of this Python that has NumPy and nothing else."""
    venv = tmp_path_factory.mktemp("numpy") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    numpy = metadata.distribution("numpy")
    for top in {file.parts[0] for file in numpy.files or () if file.parts[0] != ".."}:
        (site_of(venv) / top).symlink_to(str(numpy.locate_file(top)))
    return venv


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let a plugin be installed here, with a neighbour that nobody asked for."""
    place = tmp_path / "installed"
    described = place / "borrowed_plugin-1.5.dist-info"
    described.mkdir(parents=True)
    (place / "borrowed_plugin").mkdir()
    (place / "borrowed_plugin" / "__init__.py").write_text(PLUGIN)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: borrowed-plugin\nVersion: 1.5\n")
    (described / "entry_points.txt").write_text("[neuropod.backends]\nborrowed = borrowed_plugin\n")
    (described / "RECORD").write_text("borrowed_plugin/__init__.py,,\nborrowed_plugin-1.5.dist-info/METADATA,,\n")
    (place / "neighbour.py").touch()
    monkeypatch.syspath_prepend(place)
    return "borrowed-plugin"


def borrowed(executable: Path, lent: Lent) -> dict[str, Any]:
    ran = subprocess.run(
        [executable, "-I", "-W", "error", "-c", BORROWER, *lent.paths], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def pretend(venv: Path, name: str, version: str, code: str = "") -> Callable[[], None]:
    """Let a distribution be installed there; give the function that takes it away."""
    described, module = site_of(venv) / f"{name}-{version}.dist-info", site_of(venv) / name
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if code:
        module.mkdir()
        (module / "__init__.py").write_text(code)

    def remove() -> None:
        shutil.rmtree(described)
        shutil.rmtree(module, ignore_errors=True)

    return remove


def test_environment_with_numpy_alone_borrows_the_rest(with_numpy: Path, plugin: str) -> None:
    python = python_of(with_numpy)
    lent = lent_to(python, plugin)
    told = borrowed(python.executable, lent)

    assert told["core"] == metadata.version("neuropod-core")
    assert told["plugins"] == [["borrowed", "borrowed-plugin", "1.5"]]
    assert told["backend"] == "borrowed"
    assert told["others"] == []
    assert Path(told["files"]["numpy"]).is_relative_to(with_numpy)
    assert all(Path(told["files"][name]).is_relative_to(lent.paths[0]) for name in ("neuropod_core", "pluggy"))
    assert {"neuropod-core", "borrowed-plugin", "pluggy"} <= set(lent.distributions)


def test_folder_holds_a_closed_list(with_numpy: Path, plugin: str) -> None:
    lent = lent_to(python_of(with_numpy), plugin)
    held = {path.name for path in lent.paths[0].iterdir()}

    assert {"neuropod_core", "borrowed_plugin", "pluggy", "packaging", "borrowed_plugin-1.5.dist-info"} <= held
    assert not held & {"numpy", "neighbour.py", "pytest", "hypothesis", "click", "_virtualenv.py", "__pycache__"}


def test_what_is_installed_there_wins(with_numpy: Path, plugin: str) -> None:
    remove = pretend(with_numpy, "packaging", "99.1", "__version__ = '99.1'")
    try:
        told = borrowed_packaging(with_numpy, plugin)
    finally:
        remove()

    assert told == ["99.1", "99.1", str(site_of(with_numpy) / "packaging" / "__init__.py")]


def borrowed_packaging(venv: Path, plugin: str) -> list[str]:
    lent = lent_to(python_of(venv), plugin)
    program = (
        "import sys; sys.path += sys.argv[1:]; import packaging, neuropod_core; from importlib import metadata\n"
        "print(packaging.__version__, metadata.version('packaging'), packaging.__file__)"
    )
    ran = subprocess.run(
        [venv / "bin" / "python", "-I", "-c", program, *lent.paths], check=True, capture_output=True, text=True
    )
    return ran.stdout.split()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this release of Python has no TOML of its own")
@pytest.mark.skipif(not OLDER, reason="there is no older Python here")
def test_an_older_python_borrows_what_reads_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = tmp_path / "venv"
    subprocess.run([OLDER[0] / "bin" / "python", "-m", "venv", "--without-pip", venv], check=True)
    pretend(venv, "numpy", "2.0.0")
    is_installed = _lent._is_installed
    monkeypatch.setattr(_lent, "_is_installed", lambda name: name != "tomli" and is_installed(name))

    (path,) = lent_to(python_of(venv)).paths
    program = "import sys; sys.path += sys.argv[1:]; import tomli; print(tomli.loads('a = [1, 2.5]'), tomli.__file__)"
    ran = subprocess.run(
        [venv / "bin" / "python", "-I", "-c", program, path], check=True, capture_output=True, text=True
    )

    assert ran.stdout.split() == ["{'a':", "[1,", "2.5]}", str(path / "tomli" / "__init__.py")]


def test_environment_that_has_all_borrows_nothing(with_numpy: Path) -> None:
    remove = pretend(with_numpy, "neuropod_core", "0.1.0")
    try:
        lent = lent_to(python_of(with_numpy))
    finally:
        remove()

    assert lent == Lent()


def test_environment_with_its_own_core_borrows_the_plugin(with_numpy: Path, plugin: str) -> None:
    remove = pretend(with_numpy, "neuropod_core", "0.1.0")
    try:
        lent = lent_to(python_of(with_numpy), plugin)
    finally:
        remove()

    assert "borrowed-plugin" in lent.distributions
    assert "neuropod-core" not in lent.distributions


def test_environment_without_numpy_is_refused(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with pytest.raises(InterpreterError, match="numpy is not installed") as caught:
        lent_to(python_of(tmp_path / "venv"))

    assert f"{tmp_path / 'venv' / 'bin' / 'python'} -m pip install 'numpy>=" in caught.value.remedy


def test_lock_without_numpy_is_to_be_mended_in_the_lock(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with pytest.raises(InterpreterError, match="numpy is not installed") as caught:
        lent_to(python_of(tmp_path / "venv"), of_lock=True)

    assert "add numpy>=" in caught.value.remedy
    assert "to the lock" in caught.value.remedy
    assert "pip install" not in caught.value.remedy


def test_library_that_is_too_old_is_refused(with_numpy: Path, plugin: str) -> None:
    remove = pretend(with_numpy, "pluggy", "0.1")
    try:
        with pytest.raises(InterpreterError, match=r"pluggy>=1\.4, which neuropod-core asks for \(found: pluggy 0\.1"):
            lent_to(python_of(with_numpy), plugin)
    finally:
        remove()


def test_frameworks_are_left_to_the_plugin(with_numpy: Path, plugin: str, tmp_path: Path) -> None:
    described = tmp_path / "installed" / "borrowed_plugin-1.5.dist-info" / "METADATA"
    described.write_text(described.read_text() + "Requires-Dist: keras>=3.10\nRequires-Dist: torch\n")
    remove = pretend(with_numpy, "keras", "2.15.0")
    try:
        lent = lent_to(python_of(with_numpy), plugin)
    finally:
        remove()

    assert plugin in lent.distributions


def test_folder_is_made_once(with_numpy: Path, plugin: str) -> None:
    first = lent_to(python_of(with_numpy), plugin)
    (first.paths[0] / "pluggy").unlink()
    second = lent_to(python_of(with_numpy), plugin)
    third = lent_to(python_of(with_numpy), plugin)

    assert second.paths == third.paths
    assert (second.paths[0] / "pluggy").exists()


def test_folder_is_private_where_there_is_no_cache(
    with_numpy: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "file"))
    lent = lent_to(python_of(with_numpy), plugin)
    (folder,) = lent.paths
    there = borrowed(with_numpy / "bin" / "python", lent)["backend"]
    del lent
    gc.collect()

    assert there == "borrowed"
    assert not folder.exists()
    assert find_spec("neuropod_core") is not None


@pytest.mark.skipif(not sandbox.available().complete, reason=f"{sandbox.available().missing}")
def test_borrower_can_be_caged_before_its_environment_runs_anything(
    with_numpy: Path, plugin: str, tmp_path: Path
) -> None:
    scratch, hostile, proof = tmp_path / "scratch", site_of(with_numpy) / "hostile.pth", tmp_path / "proof"
    scratch.mkdir()
    hostile.write_text(f"import os; os.open({str(proof)!r}, os.O_CREAT | os.O_WRONLY)\n")
    try:
        python = python_of(with_numpy)
        lent = lent_to(python, plugin)
        numpy = [Path(os.path.realpath(path)) for path in site_of(with_numpy).glob("numpy*")]
        admitted = [python.prefix, *lent.paths, *lent.targets, *numpy]
        program = (
            "import sys; from pathlib import Path; scratch, lent, *more = sys.argv[1:]; sys.path.append(lent)\n"
            "from neuropod_core import sandbox\n"
            "sandbox.enforce(Path(scratch), readable=sandbox.readable_for_python(*map(Path, more)))\n"
            "import site; sys.path.remove(lent); site.main(); sys.path.append(lent)\n"
            "import numpy, neuropod_core; from neuropod_core.plugins import backend_for\n"
            "print(sys.prefix, numpy.ones(3).sum(), backend_for('borrowed').descriptor.platform)"
        )
        ran = subprocess.run(
            [python.executable, "-I", "-S", "-c", program, scratch, *lent.paths, *admitted],
            check=False,
            capture_output=True,
            text=True,
            env=sandbox.clean_environment(os.environ, scratch),
        )
    finally:
        hostile.unlink()

    assert ran.stdout.split() == [str(with_numpy), "3.0", "borrowed"], ran.stderr
    assert not proof.exists()


@pytest.mark.network
@pytest.mark.parametrize("version", EVERY_PYTHON, ids=lambda path: path.name)
def test_every_python_borrows(version: Path, plugin: str, tmp_path: Path) -> None:
    venv, program = tmp_path / "venv", uv()
    assert program is not None
    subprocess.run([version / "bin" / "python", "-m", "venv", "--without-pip", venv], check=True)
    quiet = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    subprocess.run([program, "pip", "install", "-q", "--python", venv, "numpy>=1.26"], check=True, env=quiet)
    python = python_of(venv)
    told = borrowed(python.executable, lent_to(python, plugin))

    assert told["python"] == version.name
    assert told["backend"] == "borrowed"
    assert told["others"] == []
    assert Path(told["files"]["numpy"]).is_relative_to(venv)


@pytest.mark.parametrize("code", ["raise ImportError('broken there')", "import sys; sys.exit('broken there')"])
def test_environment_whose_own_modules_are_broken_is_quoted(with_numpy: Path, code: str, tmp_path: Path) -> None:
    config = {"name": "m", "platform": "python", "input_spec": [], "output_spec": []}
    (tmp_path / "m.neuropod").mkdir()
    (tmp_path / "m.neuropod" / "config.json").write_text(json.dumps(config))
    remove = pretend(with_numpy, "neuropod_core", "0.1.0", code)
    try:
        with Package.open(tmp_path / "m.neuropod") as package:
            home = home_for(with_numpy, package, "neuropod-core", Trust.CODE, caged=False)
            with pytest.raises(WorkerStartError, match="its plugins; it wrote: .*broken there") as caught:
                foreign_backend(home, "python", None)
    finally:
        remove()

    assert "mend what it names" in caught.value.remedy
