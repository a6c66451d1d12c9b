from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core import PackageError, PackageFormatError, PackageLimitError, Problem, SpecError, TensorSpec
from neuropod_core.config import Config, Manifest
from neuropod_core.testing import problems

OPTIONAL = ("platform_version_semver", "custom_ops", "input_tensor_device", "problem")
ORIGINAL: dict[str, Any] = {
    "name": "addition_model",
    "platform": "torchscript",
    "input_spec": [
        {"name": "x", "dtype": "float32", "shape": ["batch", None]},
        {"name": "s", "dtype": "string", "shape": []},
    ],
    "output_spec": [{"name": "out", "dtype": "double", "shape": [2]}],
}


def read(**changes: Any) -> Config:
    return Config.from_bytes(json.dumps({**ORIGINAL, **changes}).encode())


@pytest.mark.parametrize("nothing", [{}, dict.fromkeys(OPTIONAL)], ids=["absent", "null"])
def test_a_declaration_of_the_original_has_its_defaults(nothing: dict[str, Any]) -> None:
    config = read(**nothing)

    assert (config.platform_version, config.custom_ops, dict(config.input_devices)) == ("*", (), {})
    assert str(config.problem) == "addition_model(x: float32[batch, ?], s: string[]) -> (out: float64[2])"
    assert all(spec.optional for spec in config.problem.inputs + config.problem.outputs)
    assert not config.problem.ties_outputs


def test_writing_is_indented_sorted_and_ends_without_a_newline() -> None:
    written = read().to_bytes().decode()

    assert written == json.dumps(json.loads(written), indent=4, sort_keys=True)
    assert json.loads(written)["input_tensor_device"] == {"x": "GPU", "s": "GPU"}
    assert "problem" not in json.loads(written)


def test_unknown_keys_survive_a_rewrite_at_every_level() -> None:
    specs = [{**spec, "theirs": 1} for spec in ORIGINAL["input_spec"]]
    config = read(input_spec=specs, theirs={"deep": [1]}, variants=[{"folder": "1"}])

    written = json.loads(config.to_bytes())

    assert written["theirs"] == {"deep": [1]}
    assert written["variants"] == [{"folder": "1"}]
    assert written["input_spec"][0]["theirs"] == 1


def test_our_key_makes_tensors_required_and_described() -> None:
    problem = {"description": "adds", "inputs": {"s": {"optional": True, "unit": "words"}}, "theirs": 3}
    config = read(problem=problem)

    assert [spec.optional for spec in config.problem.inputs] == [False, True]
    assert config.problem.inputs[1].unit == "words"
    assert config.problem.ties_outputs
    assert json.loads(config.to_bytes())["problem"]["theirs"] == 3


@given(problems(), st.sampled_from(["*", ">=1.2 <3", "2.x"]))
def test_a_declaration_survives_writing(problem: Problem, version: str) -> None:
    if not problem.ties_outputs:
        sides = [tuple(_optional(spec) for spec in side) for side in (problem.inputs, problem.outputs)]
        problem = Problem(sides[0], sides[1], "m", ties_outputs=False)
    config = Config("m", "torchscript", problem, version)

    back = Config.from_bytes(config.to_bytes())

    assert back.problem == problem
    assert back.platform_version == version


def _optional(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.shape, optional=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "has no 'name'"),
        ({"name": 3}, "expected 'name' as a text"),
        ({"name": ""}, "expected 'name' as a text"),
        ({"name": "a\x1b[31m"}, "printable"),
        ({"platform": ["torchscript"]}, "expected 'platform' as a text"),
        ({"platform_version_semver": 1}, "expected 'platform_version_semver'"),
        ({"input_spec": {}}, "expected 'input_spec' as a list of objects"),
        ({"input_spec": [3]}, "expected 'input_spec' as a list of objects"),
        ({"output_spec": None}, "expected 'output_spec' as a list of objects"),
        ({"input_spec": [{"name": "x"}]}, "needs \\['dtype', 'shape'\\]"),
        ({"input_spec": [{"name": "x", "dtype": "float33", "shape": []}]}, "'float33' is no element type"),
        ({"input_spec": [{"name": "x", "dtype": "int8", "shape": [0]}]}, "positive int"),
        ({"input_spec": [{"name": "x", "dtype": "int8", "shape": [1.5]}]}, "positive int"),
        ({"input_spec": [{"name": "x", "dtype": "int8", "shape": []}] * 2}, "'x' named more than once"),
        ({"custom_ops": "op.so"}, "expected 'custom_ops' as a list"),
        ({"custom_ops": ["../op.so"]}, "expected the base name"),
        ({"custom_ops": [".."]}, "expected the base name"),
        ({"input_tensor_device": {"x": "GPU"}}, "expected the inputs \\['s', 'x'\\]"),
        ({"input_tensor_device": {"x": "TPU", "s": "CPU"}}, "expected 'GPU' or 'CPU'"),
        ({"input_tensor_device": []}, "expected 'GPU' or 'CPU'"),
        ({"problem": []}, "expected an object"),
        ({"problem": {"inputs": []}}, "expected an object"),
        ({"problem": {"inputs": {"x": 1}}}, "expected an object"),
        ({"problem": {"inputs": {"x": {"optional": 1}}}}, "true or false"),
        ({"problem": {"name": 3}}, "is a text"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageFormatError, match=message) as raised:
        read(**changes)

    assert raised.value.at.startswith("config.json")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"3", b"\xff\xfe{}", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a": ' + b"9" * 5000 + b"}"],
    ids=repr,
)
def test_what_is_no_json_object_is_named(data: bytes) -> None:
    with pytest.raises(PackageFormatError, match="config.json"):
        Config.from_bytes(data)


def test_a_flood_of_tensors_is_refused() -> None:
    specs = [{"name": f"x{place}", "dtype": "int8", "shape": []} for place in range(4097)]
    content = json.dumps({"name": "m", "platform": "p", "input_spec": specs, "output_spec": []}).encode()

    with pytest.raises(PackageLimitError, match="at most 4096 tensors are read, this has 4097 - at .*input_spec"):
        Config.from_bytes(content)
    with pytest.raises(SpecError, match="at most 4096 inputs, not 4097"):
        Problem.of(specs, [])


@pytest.mark.parametrize("depth", [33, 500, 100_000])
def test_deep_json_is_refused(depth: int) -> None:
    with pytest.raises(PackageLimitError, match="at most 32 levels"):
        Config.from_bytes(b'{"a": ' + b"[" * depth + b"]" * depth + b"}")


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    with pytest.raises(PackageError):
        Config.from_bytes(b'{"a": "\\ud800"}')


def test_a_manifest_survives_writing() -> None:
    manifest = Manifest({"config.json": "0" * 64, "0/data/ü": "a" * 64})

    assert dict(Manifest.from_bytes(manifest.to_bytes()).files) == dict(manifest.files)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"manifest_version": 2, "files": {}},
        {"manifest_version": True, "files": {}},
        {"manifest_version": 1, "files": []},
        {"manifest_version": 1, "files": {"a": "xyz"}},
        {"manifest_version": 1, "files": {"a": "A" * 64}},
        {"manifest_version": 1, "files": {"a": 3}},
    ],
    ids=str,
)
def test_a_wrong_manifest_is_named(raw: dict[str, Any]) -> None:
    with pytest.raises(PackageFormatError, match="manifest.json"):
        Manifest.from_bytes(json.dumps(raw).encode())
