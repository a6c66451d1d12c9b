"""What is this plugin's own: its language, its option, its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuropod_core import InferenceError, ModelLoadError, PackagingError, Problem, load_neuropod
from neuropod_core.packaging import new_package
from neuropod_echo.packagers import create_echo_neuropod

FLOATS = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))


def write(path: Path, content: bytes) -> None:
    with new_package("echo", neuropod_path=path, model_name="m", problem=FLOATS) as new:
        (new.folder / "data").mkdir()
        (new.folder / "data" / "model.json").write_bytes(content)


@pytest.mark.parametrize(
    ("dtype", "tree", "given", "expected"),
    [
        ("float32", ["multiply", ["add", "x", "x"], ["constant", 0.5]], [1, 2], [1, 2]),
        ("uint8", ["add", "x", ["constant", [250, 1]]], [5, 5], [255, 6]),
        ("bool", ["multiply", "x", ["constant", [True, False]]], [True, True], [True, False]),
        ("string", ["add", "x", ["constant", "!"]], ["naïve", ""], ["naïve!", "!"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_expression_gives_its_value(dtype: str, tree: object, given: object, expected: object, tmp_path: Path) -> None:
    problem = Problem.of({"x": f"{dtype}[N]"}, {"y": f"{dtype}[N]"})
    x = np.array(given, problem.inputs[0].dtype.numpy)
    create_echo_neuropod(neuropod_path=tmp_path / "m", model_name="m", outputs={"y": tree}, problem=problem)

    with load_neuropod(tmp_path / "m", trust="data") as model:
        assert model.infer({"x": x})["y"].tolist() == expected


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({}, "for each of"),
        ({"y": "z"}, "'z' is no float32 expression"),
        ({"y": "n"}, "'n' is no float32 expression"),
        ({"y": ["divide", "x", "x"]}, "is no float32 expression"),
        ({"y": ["constant", "1"]}, "no float32"),
        ({"y": ["constant", [[1], [2, 3]]]}, "no float32"),
        ({"y": ["constant", np.ones(2)]}, "lists, texts and numbers"),
    ],
)
def test_packager_refuses_what_is_no_expression(outputs: dict[str, object], reason: str, tmp_path: Path) -> None:
    problem = Problem.of({"x": "float32[N]", "n": "int8[N]"}, {"y": "float32[N]"})

    with pytest.raises(PackagingError, match=reason):
        create_echo_neuropod(neuropod_path=tmp_path / "m", model_name="m", outputs=outputs, problem=problem)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"y": ' + b'["add", "x", ' * 5000 + b'"x"' + b"]" * 5000 + b"}"])
def test_load_refuses_a_hostile_model(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(PackagingError) as raised:
        write(tmp_path / "m", content)

    assert isinstance(raised.value.__cause__, ModelLoadError)


def test_strict_makes_overflow_an_error(tmp_path: Path) -> None:
    outputs = {"y": ["multiply", "x", "x"]}
    create_echo_neuropod(neuropod_path=tmp_path / "m", model_name="m", outputs=outputs, problem=FLOATS)
    x = np.full(1, 1e30, np.float32)

    with load_neuropod(tmp_path / "m") as model:
        assert model.infer({"x": x})["y"].tolist() == [np.inf]
    with load_neuropod(tmp_path / "m", options={"strict": True}) as model, pytest.raises(InferenceError, match="overf"):
        model.infer({"x": x})


def test_a_missing_optional_input_is_named(tmp_path: Path) -> None:
    problem = Problem.of([{"name": "x", "dtype": "float32", "shape": [None], "optional": True}], {"y": "float32[?]"})
    create_echo_neuropod(neuropod_path=tmp_path / "m", model_name="m", outputs={"y": "x"}, problem=problem)

    with load_neuropod(tmp_path / "m") as model, pytest.raises(InferenceError, match="KeyError: .x."):
        model.infer({})
