from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from neuropod_core import DType, Problem, SpecError, TensorSpec
from neuropod_core.testing import problems

TOML = """
name = "digits"
description = "Which digit a scan shows."

[inputs.image]
dtype = "uint8"
shape = ["N", 8, "?"]
unit = "grey level, 0 to 16"

[inputs.weight]
dtype = "float32"
shape = []
optional = true

[outputs]
scores = "float32[N, 10]"
"""


def test_spec_holds_its_values() -> None:
    spec = TensorSpec("image", "float32", ["N", 3, None], description="a picture", unit="[0, 1]")

    assert (spec.dtype, spec.shape, spec.symbols) == (DType.FLOAT32, ("N", 3, None), ("N",))
    assert str(spec) == "image: float32[N, 3, ?]"
    assert type(TensorSpec("x", "int8", (np.int64(3),)).shape[0]) is int


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "at least one character"),
        ({"name": 3}, "at least one character"),
        ({"name": "a\n"}, "printable"),
        ({"name": "a" * 257}, "at most 256"),
        ({"dtype": "complex64"}, "no element type"),
        ({"shape": "N"}, "a list or a tuple"),
        ({"shape": (0,)}, "positive int"),
        ({"shape": (-1,)}, "positive int"),
        ({"shape": (True,)}, "positive int"),
        ({"shape": (1.0,)}, "positive int"),
        ({"shape": ("",)}, "positive int"),
        ({"shape": (2**63,)}, "positive int"),
        ({"shape": (1,) * 33}, "at most 32"),
        ({"optional": "yes"}, "true or false"),
        ({"description": 3}, "is a text"),
        ({"unit": None}, "is a text"),
    ],
    ids=str,
)
def test_spec_refuses_what_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TensorSpec(**{"name": "x", "dtype": "float32", "shape": (1,), **fields})


@pytest.mark.parametrize("text", ["float32", "float32[", "[N]", "float32[N M]", "float32[N,,M]", "float32[-1]", "3[N]"])
def test_notation_is_strict(text: str) -> None:
    with pytest.raises(SpecError):
        TensorSpec.parse(text, "x")


def test_problem_is_made_of_specs() -> None:
    with pytest.raises(SpecError, match="made of TensorSpec objects, not 'x' - at inputs; use Problem.of"):
        Problem({"x": "float32[N]"}, {})  # type: ignore[arg-type]  # an easy slip


def test_problem_refuses_a_name_twice() -> None:
    with pytest.raises(SpecError, match="'x' named more than once - at inputs"):
        Problem.of(["x: int8[1]", "x: int8[2]"], {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": {}}, "needs outputs"),
        ({"inputs": {}, "outputs": {}, "extra": 1}, "unknown keys"),
        ({"inputs": 3, "outputs": {}}, "tensors by name"),
        ({"inputs": {"x": 3}, "outputs": {}}, "a notation or a table"),
        ({"inputs": {"x": {"dtype": "int8"}}, "outputs": {}}, "needs \\['shape'\\]"),
        ({"inputs": {"x": {"dtype": "int8", "shape": [], "size": 3}}, "outputs": {}}, "unknown keys"),
        ({"inputs": [{"dtype": "int8", "shape": []}], "outputs": {}}, "needs \\['name'\\]"),
        ({"inputs": {}, "outputs": {}, "name": 3}, "is a text"),
    ],
    ids=str,
)
def test_problem_refuses_wrong_tables(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Problem.from_dict(fields)


def test_problem_is_read_from_toml_and_json(tmp_path: Path) -> None:
    toml, js = tmp_path / "digits.toml", tmp_path / "digits.json"
    toml.write_text(TOML)
    problem = Problem.from_file(toml)
    js.write_text(json.dumps(problem.to_dict()))

    assert str(problem) == "digits(image: uint8[N, 8, ?], weight: float32[]) -> (scores: float32[N, 10])"
    assert problem.inputs[0].unit == "grey level, 0 to 16"
    assert problem.inputs[1].optional
    assert Problem.from_file(js) == problem


TWICE = '{"inputs": {"x": "int8[]", "x": "int16[]"}, "outputs": {}}'


@pytest.mark.parametrize("text", ["= 3", "[inputs", "name = 'x'", '"just text"', "", TWICE])
def test_a_broken_problem_file_is_named(tmp_path: Path, text: str) -> None:
    for suffix in (".toml", ".json"):
        path = tmp_path / f"broken{suffix}"
        path.write_text(text)

        with pytest.raises(SpecError):
            Problem.from_file(path)


def test_an_absent_problem_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="absent.toml"):
        Problem.from_file(tmp_path / "absent.toml")


@given(problems())
def test_problem_survives_its_dictionary(problem: Problem) -> None:
    back = Problem.from_dict(json.loads(json.dumps(problem.to_dict())))

    assert (back.inputs, back.outputs, back.name) == (problem.inputs, problem.outputs, problem.name)
