"""What is read from a model file before ONNX Runtime opens it, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from neuropod_core import DType, ModelLoadError, NeuropodError, PackageFormatError, PackageLimitError, Problem, Trust
from neuropod_onnx import contents as contents_module
from neuropod_onnx.contents import Contents, Declared, check_external, parse_contents, read_contents
from neuropod_onnx.plugin import OnnxBackend

FLOAT = TensorProto.FLOAT
VALUES = np.arange(4, dtype=np.float32)


def _external(location: str | None = "w.bin", offset: object = None, length: object = None) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def _places(build: Any) -> dict[str, Any]:
    """Give a model for each place in which a tensor may lie."""
    inputs, outputs = {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}
    add, constant = build.node("Add", "x w", "y"), helper.make_node("Constant", [], ["w"], value=_external())
    result = helper.make_tensor_value_info("t", FLOAT, [4])
    branch = helper.make_graph([constant, build.node("Add", "x w", "t")], "b", [], [result])
    inner = helper.make_graph([], "i", [], [helper.make_tensor_value_info("w", FLOAT, [4])], [_external()])
    condition = ("c", np.array(True))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["x"], ["y"], [constant, add], [opsets[0]])
    sparse = build.model([add], inputs, outputs)
    sparse.graph.sparse_initializer.add(values=_external(), indices=numpy_helper.from_array(np.arange(4)), dims=[4])
    training = build.model([build.node("Neg", "x", "y")], inputs, outputs)
    training.training_info.add().initialization.CopyFrom(inner)
    attribute = build.model([build.node("Neg", "x", "y")], inputs, outputs)
    attribute.graph.node[0].attribute.append(helper.make_attribute("list", [_external()]))
    return {
        "initializer": build.model([add], inputs, outputs, _external()),
        "constant": build.model([constant, add], inputs, outputs),
        "branch": build.model(
            [build.node("If", "c", "y", then_branch=branch, else_branch=branch)], inputs, outputs, condition
        ),
        "initializer of a branch": build.model(
            [build.node("If", "c", "y", then_branch=inner, else_branch=inner)], inputs, outputs, condition
        ),
        "function": build.model(
            [build.node("F", "x", "y", domain="own")], inputs, outputs, functions=[function], opset_imports=opsets
        ),
        "sparse": sparse,
        "training": training,
        "attribute": attribute,
    }


PLACES = ("initializer", "constant", "branch", "initializer of a branch", "function", "sparse", "training", "attribute")


@pytest.mark.parametrize("place", PLACES)
def test_parse_finds_external_data_wherever_a_tensor_may_lie(build: Any, place: str) -> None:
    found = parse_contents(_places(build)[place].SerializeToString())

    assert {tensor.values("location") for tensor in found.external} == {("w.bin",)}
    assert {tensor.bytes_needed for tensor in found.external} == {16}


def test_parse_reads_inputs_outputs_and_initializers(build: Any) -> None:
    model = build.model(
        [build.node("Add", "x w", "y")],
        {"x": (FLOAT, ["N", None, 3]), "w": (FLOAT, [3]), "s": (TensorProto.STRING, [])},
        {"y": (FLOAT, None)},
        ("w", np.ones(3, np.float32)),
    )
    found = parse_contents(model.SerializeToString())

    assert found.inputs["x"] == Declared("x", DType.FLOAT32, ("N", None, 3))
    assert found.inputs["s"] == Declared("s", DType.STRING, ())
    assert found.outputs["y"] == Declared("y", DType.FLOAT32, None)
    assert found.initializers == {"w"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Lay out a variant's data folder with good files, and things outside that must stay unread."""
    data = tmp_path / "0" / "data"
    (data / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (data / "w.bin", data / "sub" / "w.bin", tmp_path / "outside" / "w.bin", tmp_path / "0" / "w.bin"):
        path.write_bytes(VALUES.tobytes())
    (data / "short.bin").write_bytes(VALUES.tobytes()[:8])
    (data / "link.bin").symlink_to(tmp_path / "outside" / "w.bin")
    (data / "folder").symlink_to(tmp_path / "outside")
    (data / "near.bin").symlink_to("w.bin")
    (data / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (data / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(VALUES.tobytes())
    os.mkfifo(data / "pipe")
    return data


GOOD = {"beside": "w.bin", "below": "sub/w.bin", "dot": "./w.bin", "link inside": "near.bin"}
BAD = {
    "parent": "../w.bin",
    "far": "../../outside/w.bin",
    "there and back": "sub/../w.bin",
    "absolute": "/etc/hostname",
    "link": "link.bin",
    "linked folder": "folder/w.bin",
    "missing": "nothing.bin",
    "folder": "sub",
    "itself": ".",
    "empty": "",
    "memory address": "*/_ORT_MEM_ADDR_/*",
    "pipe": "pipe",
    "nul": "w.bin\0",
    "newline": "w\n.bin",
    "backslash": "sub\\w.bin",
    "drive": "C:w.bin",
    "long": "a" * 5000,
    "slashes": "sub//w.bin",
}


def _load(build: Any, home: Path, tensor: TensorProto) -> Any:
    from neuropod_core import LoadOptions

    model = build.model([build.node("Add", "x w", "y")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, tensor)
    problem = Problem.of({"x": "float32[4]"}, {"y": "float32[4]"})
    return OnnxBackend().load(build.variant(home.parent.parent, model, problem), LoadOptions())


@pytest.mark.parametrize("location", GOOD.values(), ids=list(GOOD))
def test_load_reads_external_data_below_the_models_folder(build: Any, home: Path, location: str) -> None:
    executor = _load(build, home, _external(location))

    assert executor.infer({"x": np.zeros(4, np.float32)})["y"].tolist() == VALUES.tolist()
    executor.close()


@pytest.mark.parametrize("location", BAD.values(), ids=list(BAD))
def test_load_refuses_external_data_anywhere_else(build: Any, home: Path, location: str) -> None:
    with pytest.raises(PackageFormatError, match="at tensor 'w'; save the model with all"):
        _load(build, home, _external(location))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(4, 16), (1 << 40, 16), (0, 1 << 40), (-4, 16), ("1e3", None), ("9" * 30, None), (0, 8), (8, None)],
    ids=str,
)
def test_load_refuses_extents_that_the_file_does_not_have(
    build: Any, home: Path, offset: object, length: object
) -> None:
    location = "short.bin" if (offset, length) == (0, 8) else "w.bin"
    with pytest.raises(PackageFormatError):
        _load(build, home, _external(location, offset, length))


def test_a_second_location_does_not_hide_behind_the_first(build: Any, home: Path) -> None:
    tensor = _external("w.bin")
    tensor.external_data.add(key="location", value="../../outside/w.bin")
    with pytest.raises(PackageFormatError):
        _load(build, home, tensor)


def test_a_tensor_has_few_entries(build: Any) -> None:
    tensor = _external("w.bin")
    for _ in range(1000):
        tensor.external_data.add(key="location", value="w.bin")
    model = build.model([build.node("Add", "x w", "y")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, tensor)
    with pytest.raises(ModelLoadError):
        parse_contents(model.SerializeToString())


def test_a_location_is_checked_whatever_data_location_says(build: Any, home: Path) -> None:
    tensor = _external("/etc/hostname")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = VALUES.tobytes()
    with pytest.raises(PackageFormatError):
        _load(build, home, tensor)


def test_an_entry_with_two_values_is_malformed(build: Any) -> None:
    good = build.model([build.node("Add", "x w", "y")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, _external("w.bin"))
    bad = good.SerializeToString()
    entry = b"\x0a\x08location\x12\x05w.bin"
    assert entry in bad
    # As long as before, with a second value where a part of the key was.
    with pytest.raises(ModelLoadError):
        parse_contents(bad.replace(entry, b"\x0a\x08location\x12\x01w\x12\x02/e"))


@pytest.mark.parametrize("operator", ["EPContext", "PythonOp", "TritonOp", "ATen", "Snpe"])
def test_operators_that_carry_code_need_trust_in_code(build: Any, tmp_path: Path, operator: str) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
    kind = (FLOAT, ["N"])
    engine = build.model([build.node(operator, "x", "y", domain="com.microsoft")], {"x": kind}, {"y": kind})
    plain = build.model([build.node("Neg", "x", "y", name=operator)], {"x": kind}, {"y": kind})

    assert OnnxBackend().trust_needed(build.variant(tmp_path / "a", engine, problem)) is Trust.CODE
    assert OnnxBackend().trust_needed(build.variant(tmp_path / "b", plain, problem)) is Trust.DATA


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\x00", b"\x3a\xff", b"\x3a\x05abc", b"\x0b\x0c", b"\xff" * 12, b"ORTM" * 4, b"\x80" * 40],
    ids=repr,
)
def test_load_refuses_what_is_no_model(build: Any, tmp_path: Path, content: bytes) -> None:
    from neuropod_core import LoadOptions

    variant = build.variant(tmp_path, content, Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}))
    with pytest.raises(ModelLoadError, match=r"model\.onnx"):
        OnnxBackend().load(variant, LoadOptions())


def test_nesting_has_a_limit() -> None:
    data = b""
    for _ in range(200):  # node > attribute > graph > node ...
        for field in (b"\x0a", b"\x2a", b"\x32"):
            data = field + _varint(len(data)) + data
    with pytest.raises(ModelLoadError):
        parse_contents(b"\x3a" + _varint(len(data)) + data + b"location")


def test_the_number_of_parts_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_module, "_MOST_FIELDS", 100)
    with pytest.raises(PackageLimitError, match="at most 100 parts of a model are read, this has 101"):
        parse_contents(b"\x08\x01" * 101)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@settings(max_examples=300, deadline=2000)
@given(data=st.data())
def test_mutated_models_end_in_our_errors(data: st.DataObject) -> None:
    whole = _a_model()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "insert", "copy"]))
        if change == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del content[at : at + data.draw(st.integers(1, 20))]
        elif change == "insert":
            content[at:at] = data.draw(st.binary(max_size=12))
        else:
            content[at:at] = content[: data.draw(st.integers(1, 40))]
        content = content or bytearray(b"\0")
    try:
        found = parse_contents(bytes(content))
        check_external(found, Path("/nowhere"))
    except NeuropodError:
        return
    assert isinstance(found, Contents)


def _a_model() -> bytes:
    tensor = _external("w.bin", 0, 16)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Constant", [], ["c"], value=_external("v.bin"))],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 4])],
        [tensor],
    )
    return bytes(helper.make_model(graph).SerializeToString())


def test_a_file_is_read_again_after_it_changed(build: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    kind = (FLOAT, ["N"])
    for name in ("a", "bb"):
        path.write_bytes(build.model([build.node("Neg", name, "y")], {name: kind}, {"y": kind}).SerializeToString())

        assert list(read_contents(path).inputs) == [name]


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read as a model"):
        read_contents(tmp_path)


def test_importing_the_plugin_imports_no_framework() -> None:
    code = "import sys, neuropod_onnx, neuropod_onnx.plugin; print({'onnxruntime', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
