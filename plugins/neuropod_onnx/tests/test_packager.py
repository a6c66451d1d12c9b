"""Packages that `create_onnx_neuropod` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from neuropod_core import Package, PackagingError, Problem, load_neuropod
from neuropod_core import packagers as core_packagers
from neuropod_onnx import create_onnx_neuropod

FLOAT = TensorProto.FLOAT
X = np.random.default_rng(0).random((2, 64), np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.neuropod"


@pytest.fixture
def saved(tmp_path: Path, build: Any) -> Path:
    """Save the small model with its tensors in another file."""
    path = tmp_path / "source" / "network.onnx"
    path.parent.mkdir()
    (path.parent / "weights").mkdir()
    onnx.save_model(build.mlp(), path, save_as_external_data=True, location="weights/all.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_packaged_model_gives_what_onnxruntime_gives(build: Any, target: Path, as_zip: bool) -> None:
    import onnxruntime

    model = build.mlp()
    by_hand = onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": X})[0]
    create_onnx_neuropod(
        neuropod_path=target,
        model_name="mlp",
        model=model,
        input_spec=[{"name": "x", "dtype": "float32", "shape": ("N", 64)}],
        output_spec=[{"name": "y", "dtype": "float32", "shape": ("N", 10)}],
        package_as_zip=as_zip,
        test_input_data={"x": X},
        test_expected_out={"y": by_hand},
    )
    with load_neuropod(target, trust="data") as loaded:
        assert np.array_equal(loaded.infer({"x": X})["y"], by_hand)
        assert loaded.test() == {"y": 0.0}
        assert (loaded.name, loaded.platform) == ("mlp", "onnx")


def test_bytes_are_taken_as_they_are(build: Any, target: Path) -> None:
    content = build.mlp().SerializeToString()
    create_onnx_neuropod(neuropod_path=target, model_name="m", model=content, package_as_zip=False)

    assert (target / "0" / "data" / "model.onnx").read_bytes() == content
    assert not (target / "0" / "config.json").exists()


def test_specs_are_what_the_model_declares(build: Any, target: Path) -> None:
    model = build.model(
        [build.node("Add", "x w", "s"), build.node("Identity", "t", "u")],
        {"x": (FLOAT, ["batch", None, 3]), "w": (FLOAT, [3]), "t": (TensorProto.STRING, [])},
        {"s": (FLOAT, ["batch", None, 3]), "u": (TensorProto.STRING, [])},
        ("w", np.ones(3, np.float32)),
    )
    mapping = {"image": "x", "text": "u"}
    create_onnx_neuropod(neuropod_path=target, model_name="m", model=model, node_name_mapping=mapping)
    with load_neuropod(target, trust="data") as loaded:
        result = loaded.infer({"image": np.zeros((1, 2, 3), np.float32), "t": np.array("ü", object)})

        inputs, outputs = "image: float32[batch, ?, 3], t: string[]", "s: float32[batch, ?, 3], text: string[]"
        assert str(loaded.problem) == f"({inputs}) -> ({outputs})"
        assert result["text"].item() == "ü"


def test_specs_are_asked_for_where_the_model_does_not_declare_them(build: Any, target: Path) -> None:
    model = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, None)})
    with pytest.raises(PackagingError, match="does not declare a shape for output 'y'; pass input_spec"):
        create_onnx_neuropod(neuropod_path=target, model_name="m", model=model)
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
    create_onnx_neuropod(neuropod_path=target, model_name="m", model=model, problem=problem)

    assert target.exists()


def test_external_data_is_brought_along(saved: Path, build: Any, target: Path) -> None:
    create_onnx_neuropod(neuropod_path=target, model_name="m", model_path=saved, package_as_zip=False)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}

    assert {"0/data/model.onnx", "0/data/weights/all.bin"} <= files
    with load_neuropod(target, trust="data") as loaded:
        assert loaded.infer({"x": X})["y"].shape == (2, 10)


def test_a_cache_of_links_is_followed(saved: Path, tmp_path: Path, target: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    (snapshot / "weights").mkdir(parents=True)
    saved.rename(blobs / "1")
    (saved.parent / "weights" / "all.bin").rename(blobs / "2")
    (snapshot / "model.onnx").symlink_to(blobs / "1")
    (snapshot / "weights" / "all.bin").symlink_to(blobs / "2")
    create_onnx_neuropod(neuropod_path=target, model_name="m", model_path=snapshot / "model.onnx")
    with load_neuropod(target, trust="data") as loaded:
        assert loaded.infer({"x": X})["y"].shape == (2, 10)


def test_files_outside_of_the_models_folder_are_not_packaged(saved: Path, tmp_path: Path, target: Path) -> None:
    secret = tmp_path / "secret"
    (saved.parent / "weights" / "all.bin").rename(secret)
    (saved.parent / "weights" / "all.bin").symlink_to(secret)
    with pytest.raises(ValueError, match="there is no file 'weights/all.bin' inside the model's folder"):
        create_onnx_neuropod(neuropod_path=target, model_name="m", model_path=saved)

    assert not target.exists()


def test_a_model_in_memory_whose_tensors_are_elsewhere_is_refused(saved: Path, target: Path) -> None:
    model = onnx.load(saved, load_external_data=False)
    with pytest.raises(PackagingError, match="the model keeps tensors in files, which are not at hand"):
        create_onnx_neuropod(neuropod_path=target, model_name="m", model=model)


def test_exactly_one_source_is_taken(build: Any, target: Path, saved: Path) -> None:
    for given in ({}, {"model": build.mlp(), "model_path": saved}):
        with pytest.raises(PackagingError, match="exactly one of model and model_path"):
            create_onnx_neuropod(neuropod_path=target, model_name="m", **given)


@pytest.mark.parametrize("model", [3, "model.onnx", b"garbage", None.__class__], ids=repr)
def test_what_is_no_model_is_refused(model: object, target: Path) -> None:
    with pytest.raises(PackagingError):
        create_onnx_neuropod(neuropod_path=target, model_name="m", model=model)

    assert not target.exists()


def test_a_missing_file_is_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match="cannot be read as a model"):
        create_onnx_neuropod(neuropod_path=target, model_name="m", model_path=tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"nothing": "x"}, "'nothing' is no tensor of the problem"),
        ({"x": "nothing"}, "the model has no input 'nothing'"),
        ({"x": 3}, "expected the name of a node, got 3"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(build: Any, target: Path, mapping: Any, message: str) -> None:
    problem = Problem.of({"x": "float32[N, 64]"}, {"y": "float32[N, 10]"})
    with pytest.raises(PackagingError, match=message):
        create_onnx_neuropod(
            neuropod_path=target, model_name="m", model=build.mlp(), node_name_mapping=mapping, problem=problem
        )

    assert list(target.parent.iterdir()) == []


def test_the_callers_model_is_left_as_it_was(build: Any, target: Path) -> None:
    model = build.mlp()
    before = model.SerializeToString()
    create_onnx_neuropod(neuropod_path=target, model_name="m", model=model)

    assert model.SerializeToString() == before


def test_the_core_offers_the_packager() -> None:
    assert core_packagers.create_onnx_neuropod is create_onnx_neuropod


def test_packages_hold_no_more_than_the_model_needs(build: Any, target: Path) -> None:
    create_onnx_neuropod(neuropod_path=target, model_name="m", model=build.mlp())
    with Package.open(target) as package:
        folder = package.folder()

        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
            "0/data/model.onnx",
            "config.json",
            "manifest.json",
        }
