"""Tensors of the frameworks themselves go in, and are known by what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

from neuropod_core import DType, Problem, TensorMismatchError, Tensors, load_neuropod
from neuropod_core._native import describe_native, is_native, is_on_device, native_dtype, native_shape
from neuropod_core.checks import input_check, native_input_check
from neuropod_core.packagers import create_python_neuropod

NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]
CODE = "def main(data_path):\n    return lambda x: {'y': x}\n"


def made(framework: str, dtype: DType) -> Any:
    """Make a tensor of a framework, of two rows and three columns."""
    if framework == "torch":
        return torch.zeros(2, 3).to(getattr(torch, dtype.value))
    return tf.cast(tf.zeros((2, 3)), dtype.value)


@pytest.mark.parametrize("framework", ["tensorflow", "torch"])
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_tensors_say_what_they_are(framework: str, dtype: DType) -> None:
    tensor = made(framework, dtype)

    assert is_native(tensor)
    assert not is_on_device(tensor)
    assert (native_dtype(tensor), native_shape(tensor)) == (dtype, (2, 3))
    assert describe_native(tensor) == f"{type(tensor).__name__} {dtype}[2, 3]"


@pytest.mark.parametrize("framework", ["tensorflow", "torch"])
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_tensors_go_in(framework: str, dtype: DType) -> None:
    problem, tensor = Problem.of({"x": f"{dtype}[N, 3]"}, {}), made(framework, dtype)

    for _ in range(2):  # By what is read of a class first, and by what is known of it then.
        assert native_input_check(problem)({"x": tensor}) == ({"x": tensor}, (2,))
    array = input_check(problem, takes_native=True)({"x": tensor})[0]["x"]
    if dtype is DType.BFLOAT16 and framework == "torch":
        assert array is tensor  # NumPy cannot view it.
    else:
        assert (array.dtype, array.shape) == (dtype.numpy, (2, 3))


def test_a_tensor_of_the_host_is_viewed() -> None:
    tensor = torch.arange(3.0)
    array = input_check(Problem.of({"x": "float32[3]"}, {}), takes_native=True)({"x": tensor})[0]["x"]

    tensor[0] = 7
    assert array.tolist() == [7, 1, 2]


def test_text_of_tensorflow_goes_in_and_ends_nothing() -> None:
    """Asked to lend text by DLPack, TensorFlow ends the process."""
    problem, text = Problem.of({"x": "string[N]"}, {}), tf.constant(["a", "é"])

    for check in (input_check(problem), input_check(problem, takes_native=True), native_input_check(problem)):
        assert check({"x": text})[0]["x"].tolist() == ["a", "é"]
        with pytest.raises(TensorMismatchError, match="at inputs.x"):
            check({"x": tf.constant([1.0])})
    with pytest.raises(TensorMismatchError, match="expected float32\\[N\\], got object\\[2\\] - at inputs.x"):
        input_check(Problem.of({"x": "float32[N]"}, {}))({"x": text})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, device="meta"),
        torch.eye(2).to_sparse()[0],
        torch.zeros(2, dtype=torch.complex64),
        tf.ragged.constant([[1.0], [2.0, 3.0]]),
        tf.Variable([1 + 1j, 2]),
    ],
    ids=lambda tensor: type(tensor).__name__,
)
def test_tensors_that_cannot_be_taken_are_refused(tensor: Any) -> None:
    problem = Problem.of({"x": "float32[2]"}, {})

    for check in (input_check(problem), input_check(problem, takes_native=True)):
        with pytest.raises(TensorMismatchError, match="at inputs.x"):
            check({"x": tensor})


def test_a_model_without_native_results_takes_tensors_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "entry.py").write_text(CODE)
    create_python_neuropod(
        neuropod_path=tmp_path / "m.neuropod",
        model_name="m",
        problem=Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}),
        code_path_spec=[{"python_root": tmp_path / "code", "dirs_to_package": ["entry.py"]}],
        entrypoint_package="entry",
        entrypoint="main",
    )
    with load_neuropod(tmp_path / "m.neuropod", trust="code") as model:
        results: list[Tensors] = [model.infer({"x": x}) for x in (torch.ones(2), tf.ones(2), np.ones(2, np.float32))]

    assert all(result["y"].tolist() == [1, 1] for result in results)
