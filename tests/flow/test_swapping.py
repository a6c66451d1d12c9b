"""Four implementations of one problem are one thing to their caller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import Neuropod, PackagingError, Problem, TensorMismatchError, load_neuropod
from neuropod_core.packaging import repack

PLATFORMS = ("onnx", "python", "tensorflow", "torchscript")

Opened = Callable[[str, str], Neuropod]
Write = Callable[..., Path]

ROWS = np.random.default_rng(0).random((5, 4), np.float32)

WRONG_CALLS = {
    "another type": {"x": ROWS.astype(np.float64)},
    "another length": {"x": ROWS[:, :3]},
    "another rank": {"x": ROWS[0]},
    "a list": {"x": ROWS.tolist()},
    "nothing": {},
    "another name": {"rows": ROWS},
    "one more": {"x": ROWS, "z": ROWS},
}


def test_packages_of_one_problem_give_one_answer(opened: Opened, problem: Callable[[str], Problem]) -> None:
    models = {platform: opened(platform, "affine") for platform in PLATFORMS}

    answers = {platform: model.infer({"x": ROWS})["y"] for platform, model in models.items()}

    assert {model.platform for model in models.values()} == set(PLATFORMS)
    assert all(model.problem == problem("affine") for model in models.values())
    for platform, answer in answers.items():
        np.testing.assert_allclose(answer, answers["python"], rtol=1e-6, atol=1e-6, err_msg=platform)


@pytest.mark.parametrize("inputs", WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_packages_of_one_problem_refuse_a_wrong_call_in_the_same_words(opened: Opened, inputs: dict[str, Any]) -> None:
    words = set()
    for platform in PLATFORMS:
        model = opened(platform, "affine")
        with pytest.raises(TensorMismatchError) as refused:
            model.infer(inputs)
        words.add(str(refused.value))

    assert len(words) == 1


@pytest.mark.parametrize("rows", [0, 1, 2, 33])
def test_models_take_any_length_of_a_symbol(opened: Opened, platform: str, rows: int) -> None:
    result = opened(platform, "affine").infer({"x": np.ones((rows, 4), np.float32)})["y"]

    assert result.shape == (rows, 3)


LAYOUTS = {
    "reversed": ROWS[::-1, ::-1],
    "Fortran": np.asfortranarray(ROWS),
    "strided": np.repeat(ROWS, 2, axis=1)[:, ::2],
    "broadcast": np.broadcast_to(ROWS[0], (5, 4)),
    "misaligned": np.frombuffer(b"\0" + ROWS.tobytes(), np.float32, offset=1).reshape(5, 4),
    "big-endian": ROWS.astype(">f4"),
}


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_models_take_any_memory_layout(opened: Opened, platform: str, rows: np.ndarray[Any, Any]) -> None:
    model = opened(platform, "affine")

    given = model.infer({"x": rows})["y"]

    np.testing.assert_array_equal(given, model.infer({"x": np.array(rows, np.float32, order="C")})["y"])


def test_outputs_can_be_asked_for_by_name(opened: Opened, platform: str) -> None:
    model = opened(platform, "affine")

    assert list(model.infer({"x": ROWS}, ["y"])) == ["y"]
    with pytest.raises(TensorMismatchError, match="outputs.nothing"):
        model.infer({"x": ROWS}, ["nothing"])


@pytest.mark.parametrize("platform", ["onnx", "tensorflow", "torchscript"])
def test_test_data_of_one_platform_proves_a_package_of_another(write: Write, opened: Opened, platform: str) -> None:
    expected = opened("python", "affine").infer({"x": ROWS})

    path = write(platform, "affine", test_input_data={"x": ROWS}, test_expected_out=expected)

    with load_neuropod(path) as model:
        assert model.test()["y"] < 1e-5


@pytest.mark.parametrize("platform", ["onnx", "tensorflow", "torchscript"])
def test_package_that_gives_other_results_than_expected_is_not_written(write: Write, platform: str) -> None:
    wrong = {"y": np.zeros((5, 3), np.float32)}

    with pytest.raises(PackagingError):
        write(platform, "affine", test_input_data={"x": ROWS}, test_expected_out=wrong)


def test_folder_and_archive_of_a_package_give_one_answer(write: Write, tmp_path: Path, platform: str) -> None:
    archive, folder = write(platform, "affine"), tmp_path / "folder"
    repack(archive, folder, package_as_zip=False)

    with load_neuropod(archive, trust="code") as packed, load_neuropod(folder, trust="code") as unpacked:
        np.testing.assert_array_equal(packed.infer({"x": ROWS})["y"], unpacked.infer({"x": ROWS})["y"])


def test_archive_is_the_same_each_time_it_is_written(write: Write, tmp_path: Path, platform: str) -> None:
    first, folder, second = write(platform, "affine"), tmp_path / "folder", tmp_path / "second.neuropod"
    repack(first, folder, package_as_zip=False)
    repack(folder, second)

    assert first.read_bytes() == second.read_bytes()
