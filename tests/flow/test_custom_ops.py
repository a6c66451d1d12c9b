"""A C++ operator of this repository, compiled for each framework, runs from packages that bring it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import torch
from onnx import TensorProto, helper

from neuropod_core import CustomOpError, Package, Problem, TrustError, load_neuropod
from neuropod_core.custom_ops import this_machine
from neuropod_core.packagers import (
    create_onnx_neuropod,
    create_tensorflow_neuropod,
    create_torch_aoti_neuropod,
    create_torch_export_neuropod,
    create_torchscript_neuropod,
)
from neuropod_core.packaging import repack

FOLDER = Path(__file__).parent / "custom_ops"
FACTOR = 2.5
X, Y = np.array([1, 2, 3], np.float32), np.array([10, 20, 30], np.float32)
EXPECTED = [26.0, 52.0, 78.0]
QUICK = {"aot_inductor.compile_wrapper_opt_level": "O0"}
PROBLEM = Problem.of({"x": "float32[N]", "y": "float32[N]"}, {"z": "float32[N]"}, name="scaled_add")


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"custom_ops_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = _module("build")
pytestmark = pytest.mark.skipif(BUILD.COMPILER is None, reason="there is no g++")


# -- the operator, by hand and in a package ---------------------------------------------------------------------------


def _onnx_model() -> Any:
    node = helper.make_node("ScaledAdd", ["x", "y"], ["z"], domain="neuropod_test", factor=FACTOR)
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in names] for names in ("xy", "z")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("neuropod_test", 1)]
    return helper.make_model(helper.make_graph([node], "g", *sides), opset_imports=opsets, ir_version=8)


def _onnx(library: Path, path: Path, **arguments: Any) -> list[float]:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(_onnx_model().SerializeToString(), options)
    create_onnx_neuropod(model=_onnx_model(), neuropod_path=path, **arguments)
    by_hand: list[float] = session.run(None, {"x": X, "y": Y})[0].tolist()
    return by_hand


class _TensorFlow(tf.Module):
    def __init__(self, operators: Any) -> None:
        super().__init__()
        self._scaled_add = operators.neuropod_test_scaled_add

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name) for name in "xy"])
    def run(self, x: Any, y: Any) -> Any:
        return {"z": self._scaled_add(x, y, factor=FACTOR)}


def _tensorflow(library: Path, path: Path, **arguments: Any) -> list[float]:
    module = _TensorFlow(tf.load_op_library(str(library)))
    create_tensorflow_neuropod(trackable_obj=module, neuropod_path=path, **arguments)
    by_hand: list[float] = module.run(X, Y)["z"].numpy().tolist()
    return by_hand


class _Torch(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": torch.ops.neuropod_test.scaled_add(x, y, 2.5)}


def _torch(write: Callable[..., None], library: Path, path: Path, **arguments: Any) -> list[float]:
    torch.ops.load_library(str(library))
    write(module=_Torch(), neuropod_path=path, **arguments)
    by_hand: list[float] = _Torch()(torch.from_numpy(X), torch.from_numpy(Y))["z"].tolist()
    return by_hand


WRITERS: dict[str, Callable[..., list[float]]] = {
    "onnx": _onnx,
    "tensorflow": _tensorflow,
    "torchscript": partial(_torch, create_torchscript_neuropod),
    "torch_export": partial(_torch, create_torch_export_neuropod),
    "torch_aoti": partial(_torch, partial(create_torch_aoti_neuropod, inductor_configs=QUICK)),
}


@pytest.fixture(scope="module", params=WRITERS)
def platform(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, platform: str) -> Callable[[str], Path]:
    """Give the function that compiles a build of the operator."""
    folder = request.config.cache.mkdir("custom_ops")
    return lambda build: BUILD.compiled(platform, build, folder)


@pytest.fixture(scope="module")
def written(
    platform: str, compiled: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    """Give a package with the operator, and what the framework computes by hand."""
    path, library = tmp_path_factory.mktemp(platform) / "m.neuropod", compiled("first")
    arguments = {"model_name": "scaled_add", "problem": PROBLEM, "custom_ops": [library]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        by_hand = WRITERS[platform](library, path, test_input_data={"x": X, "y": Y}, **arguments)
    return path, by_hand


@pytest.fixture
def with_library(written: tuple[Path, list[float]], tmp_path: Path) -> Callable[[bytes], Path]:
    """Give the function that puts another library into a copy of the package, as no packager would."""

    def changed(content: bytes) -> Path:
        folder = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}.neuropod"
        repack(written[0], folder, package_as_zip=False)
        (folder / "manifest.json").unlink()
        config = json.loads((folder / "config.json").read_text())
        config.pop("custom_op_targets")
        (folder / "config.json").write_text(json.dumps(config))
        (library,) = (folder / "0" / "ops").iterdir()
        library.write_bytes(content)
        return folder

    return changed


def test_package_with_a_custom_operator_computes_what_the_framework_does(written: tuple[Path, list[float]]) -> None:
    path, by_hand = written

    with load_neuropod(path, trust="code") as model:
        assert model.infer({"x": X, "y": Y})["z"].tolist() == by_hand == EXPECTED


def test_model_calls_the_operator_itself(written: tuple[Path, list[float]], tmp_path: Path) -> None:
    folder = tmp_path / "folder.neuropod"
    repack(written[0], folder, package_as_zip=False)

    artefacts = [path for path in (folder / "0" / "data").rglob("*") if path.is_file()]
    assert any(re.search(rb"(?i)scaled_?add", content) for path in artefacts for content in _contents(path))


def _contents(path: Path) -> list[bytes]:
    """Give the content of a file; that of each member where it is an archive, as those of torch are."""
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def test_package_says_which_machine_its_library_is_for(written: tuple[Path, list[float]]) -> None:
    with Package.open(written[0]) as package:
        assert list(package.config.custom_op_targets.values()) == [this_machine()]


def test_package_with_a_custom_operator_needs_trust_in_code(written: tuple[Path, list[float]]) -> None:
    with pytest.raises(TrustError, match="native libraries"):
        load_neuropod(written[0], trust="graph")


def test_library_is_loaded_once_and_a_clash_is_refused(
    platform: str,
    written: tuple[Path, list[float]],
    compiled: Callable[[str], Path],
    with_library: Callable[[bytes], Path],
    tmp_path: Path,
) -> None:
    same = tmp_path / "same.neuropod"
    repack(written[0], same, package_as_zip=False)
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", str(stripped), str(compiled("second"))], check=True)
    others = [with_library(path.read_bytes()) for path in (compiled("second"), stripped)]

    first, again, other, bare, at_last = _in_a_new_process(written[0], same, *others, written[0])

    assert first == again == at_last == EXPECTED
    for refused in (other, bare):
        if platform == "onnx":  # Each session has operators of its own.
            assert refused == EXPECTED
        else:
            assert refused[0] == "CustomOpError"
            assert "which another library has registered in this process" in refused[1]
            assert "placement='worker'" in refused[1]


def test_library_that_the_application_has_loaded_is_not_loaded_again(
    platform: str, written: tuple[Path, list[float]], with_library: Callable[[bytes], Path], compiled: Any
) -> None:
    """Here it is the test that has loaded it, to write the package."""
    if platform != "onnx":
        with pytest.raises(CustomOpError, match="which another library has registered"):
            load_neuropod(with_library(compiled("second").read_bytes()), trust="code")
    with load_neuropod(written[0], trust="code") as model:
        assert model.infer({"x": X, "y": Y})["z"].tolist() == EXPECTED


def test_worker_runs_a_library_that_clashes_with_one_of_this_process(
    with_library: Callable[[bytes], Path], written: tuple[Path, list[float]], compiled: Any
) -> None:
    for path in (written[0], with_library(compiled("second").read_bytes())):
        with load_neuropod(path, trust="code", placement="worker") as model:
            assert model.infer({"x": X, "y": Y})["z"].tolist() == EXPECTED


def test_library_for_another_machine_is_left_alone(
    platform: str, written: tuple[Path, list[float]], with_library: Callable[[bytes], Path], compiled: Any
) -> None:
    foreign = bytearray(compiled("first").read_bytes())
    foreign[18:20] = b"\xf3\x00"  # RISC-V, in the header of ELF.
    folder = with_library(bytes(foreign))

    with pytest.raises(CustomOpError, match=f"no custom operators for {this_machine()} \\(there are .*: linux-riscv64"):
        load_neuropod(folder, trust="code")

    config = json.loads((folder / "config.json").read_text())
    config["custom_ops"] += ["here.so"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "0" / "ops" / "here.so").write_bytes(compiled("first").read_bytes())
    with load_neuropod(folder, trust="code") as model:
        assert model.infer({"x": X, "y": Y})["z"].tolist() == EXPECTED


def _in_a_new_process(*packages: Path) -> list[Any]:
    program = [sys.executable, str(FOLDER / "worlds.py"), *map(str, packages)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(program, check=True, capture_output=True, text=True, timeout=120, env=environment)
    answers: list[Any] = json.loads(run.stdout.splitlines()[-1])
    return answers
