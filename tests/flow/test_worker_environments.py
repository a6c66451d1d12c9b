"""Old and new side by side: one application, workers of other Pythons with other NumPys and other frameworks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from neuropod_core import (
    FrameworkNotFoundError,
    InterpreterError,
    Neuropod,
    Problem,
    TrustError,
    Worker,
    load_neuropod,
    sandbox,
)
from neuropod_core.environments import _lent
from neuropod_core.packagers import create_onnx_neuropod, create_python_neuropod, create_tensorflow_neuropod

uv = pytest.importorskip("uv")

VERSIONS = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())) / "versions"
OLD = {"3.10": ("numpy==1.26.4", "onnxruntime==1.17.3"), "3.12": ("numpy==2.1.3", "onnxruntime==1.20.1")}
PROBLEM = Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 4]"}, name="twice")

MakeEnvironment = Callable[..., Path]


def uv_run(*arguments: object) -> None:
    quiet = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": ""}
    subprocess.run([uv.find_uv_bin(), *map(str, arguments)], check=True, env=quiet, capture_output=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> MakeEnvironment:
    """Make a virtual environment of a Python with some packages."""
    made: dict[Any, Path] = {}

    def make(version: str, *requirements: str) -> Path:
        key = (version, *requirements)
        if key not in made:
            python = next(iter(sorted(VERSIONS.glob(f"{version}.*/bin/python"))), None)
            if python is None and sys.version_info[:2] != tuple(map(int, version.split("."))):
                pytest.skip(f"there is no Python {version}")
            folder = tmp_path_factory.mktemp("environment") / "venv"
            uv_run("venv", "--python", python or sys.executable, folder)
            if requirements:
                uv_run("pip", "install", "--python", folder, *requirements)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Package a graph that every ONNX Runtime here can read."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "twice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    path = tmp_path / "twice.neuropod"
    create_onnx_neuropod(neuropod_path=path, model_name="twice", model=model, problem=PROBLEM)
    return path


@pytest.fixture
def models() -> Iterator[list[Neuropod]]:
    opened: list[Neuropod] = []
    yield opened
    for model in opened:
        model.close()


def test_runtimes_and_pythons_of_several_ages_run_side_by_side(
    package: Path, environment: MakeEnvironment, models: list[Neuropod]
) -> None:
    models.append(load_neuropod(package))
    for version, requirements in OLD.items():
        models.append(load_neuropod(package, placement=Worker(environment=environment(version, *requirements))))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)

    results = [model.infer({"x": x})["y"] for model in models]

    assert [model.framework_version for model in models[1:]] == ["1.17.3", "1.20.1"]
    assert models[0].framework_version not in ("1.17.3", "1.20.1")
    assert all(np.array_equal(result, 2 * x) for result in results)


def test_code_runs_on_an_older_python_that_has_numpy_alone(
    environment: MakeEnvironment, tmp_path: Path, models: list[Neuropod], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "twice.py").write_text("import sys\ndef make(_):\n    return lambda x: {'y': x * sys.version_info[1]}\n")
    path = tmp_path / "code.neuropod"
    create_python_neuropod(
        neuropod_path=path,
        model_name="code",
        problem=PROBLEM,
        code_path_spec=[{"python_root": str(folder), "dirs_to_package": ["."]}],
        entrypoint_package="twice",
        entrypoint="make",
    )
    monkeypatch.setattr(_lent, "_is_installed", lambda name: name not in ("tomli", "typing-extensions"))

    place = Worker(environment=environment("3.10", "numpy==1.26.4"))
    models.append(load_neuropod(path, placement=place, trust="code"))

    assert models[0].infer({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[10.0] * 4]


def test_an_environment_without_the_framework_is_told_so(package: Path, environment: MakeEnvironment) -> None:
    folder = environment("3.12", "numpy==2.1.3")
    with pytest.raises(FrameworkNotFoundError, match="needs onnxruntime") as caught:
        load_neuropod(package, placement=Worker(environment=folder))

    assert caught.value.remedy.startswith(f"run: {folder / 'bin' / 'python'} -m pip install ")


def test_what_is_installed_meanwhile_is_found(
    package: Path, environment: MakeEnvironment, models: list[Neuropod]
) -> None:
    folder = environment("3.12", "numpy==2.1.3", "packaging")  # An environment of its own: it is changed.
    with pytest.raises(FrameworkNotFoundError):
        load_neuropod(package, placement=Worker(environment=folder))

    uv_run("pip", "install", "--python", folder, "onnxruntime==1.20.1")
    models.append(load_neuropod(package, placement=Worker(environment=folder)))

    assert models[0].framework_version == "1.20.1"


def test_an_environment_without_numpy_is_told_so(package: Path, environment: MakeEnvironment) -> None:
    with pytest.raises(InterpreterError, match="numpy is not installed"):
        load_neuropod(package, placement=Worker(environment=environment("3.12")))


def test_a_foreign_worker_in_a_sandbox(package: Path, environment: MakeEnvironment, models: list[Neuropod]) -> None:
    if sandbox.available().missing:
        pytest.skip("this kernel has no sandbox")
    place = Worker(environment=environment("3.12", *OLD["3.12"]))
    models.append(load_neuropod(package, placement=place, trust="sandboxed"))

    assert models[0].infer({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2.0] * 4]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_tensorflows_run_side_by_side(environment: MakeEnvironment, tmp_path: Path, models: list[Neuropod]) -> None:
    import tensorflow as tf

    class Twice(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x + x}

    module = Twice()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.__call__)
    path = tmp_path / "twice.neuropod"
    create_tensorflow_neuropod(
        neuropod_path=path, model_name="twice", saved_model_dir=str(tmp_path / "saved"), problem=PROBLEM
    )
    old = environment("3.11", "tensorflow-cpu==2.16.2", "numpy<2")
    models += [load_neuropod(path), load_neuropod(path, placement=Worker(environment=old))]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)

    results = [model.infer({"x": x})["y"] for model in models]

    assert [model.framework_version for model in models] == [tf.__version__, "2.16.2"]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], 2 * x)


SCALE = """
import numpy as np
import six

def entry(data_path):
    def scale(x):
        return {"y": x * np.float32(len(six.__version__)), "numpy": np.array([str(np.__version__)], dtype=object)}
    return scale
"""


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """Package Python code with a lock that is not what is installed here."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "scaled.py").write_text(SCALE)
    path = tmp_path / "scaled.neuropod"
    create_python_neuropod(
        neuropod_path=path,
        model_name="scaled",
        data_paths=[],
        code_path_spec=[{"python_root": str(tmp_path / "code"), "dirs_to_package": [""]}],
        entrypoint_package="scaled",
        entrypoint="entry",
        requirements="numpy==1.26.4\nsix==1.16.0\n",
        hashes=True,
        neuropod_load_args={"placement": Worker(environment="package")},  # It is proved where it will run.
        problem=Problem.of({"x": "float32[N]"}, {"y": "float32[N]", "numpy": "string[1]"}, name="scaled"),
    )
    return path


def test_a_package_brings_its_own_environment(locked: Path, models: list[Neuropod]) -> None:
    place = Worker(environment="package")
    with pytest.raises(TrustError):
        load_neuropod(locked, placement=place)
    models.append(load_neuropod(locked, placement=place, trust="code"))

    results = models[0].infer({"x": np.ones(2, np.float32)})

    assert results["y"].tolist() == [6.0, 6.0]
    assert results["numpy"].tolist() == ["1.26.4"]


def test_nothing_is_built_for_a_package_that_is_not_trusted(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "empty"))

    with pytest.raises(TrustError):
        load_neuropod(locked, placement=Worker(environment="package"), trust="graph")

    assert not list((tmp_path / "empty").rglob("environments"))


def test_a_package_in_its_own_environment_and_a_sandbox(locked: Path, models: list[Neuropod]) -> None:
    if sandbox.available().missing:
        pytest.skip("this kernel has no sandbox")
    models.append(load_neuropod(locked, placement=Worker(environment="package"), trust="sandboxed"))

    assert models[0].infer({"x": np.ones(1, np.float32)})["numpy"].tolist() == ["1.26.4"]
