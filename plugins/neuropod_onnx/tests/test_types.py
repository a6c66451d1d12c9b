"""Types that no tensor of a problem can have, and tensors that a call may give or leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from neuropod_core import PackageFormatError, PackagingError, load_neuropod
from neuropod_onnx import create_onnx_neuropod
from neuropod_onnx._types import ELEMENT_TYPES, element_name, refusal
from neuropod_onnx.contents import parse_contents

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ROW = helper.make_tensor_type_proto(FLOAT, ["N"])
SEQUENCE, OPTIONAL = helper.make_sequence_type_proto(ROW), helper.make_optional_type_proto(ROW)
MAPS = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
OPSETS = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", 3)]


def _with_output(build: Any, nodes: list[Any], name: str, kind: Any) -> Any:
    model = build.model(nodes, {"x": (FLOAT, ["N", 2])}, {}, ir_version=9, opset_imports=OPSETS)
    model.graph.output.append(helper.make_value_info(name, kind))
    return model


def _refused(build: Any) -> dict[str, tuple[Any, str]]:
    """Give models whose output is no tensor that a problem can have, with what is to be done."""
    zipped = build.node("ZipMap", "x", "y", domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    narrow = build.node("Cast", "x", "y", to=TensorProto.FLOAT8E4M3FN)
    nested = [build.node("SequenceConstruct", "x", "s"), build.node("Optional", "s", "y")]
    return {
        r"seq(tensor(float))": (
            _with_output(build, [build.node("SequenceConstruct", "x", "y")], "y", SEQUENCE),
            "ConcatFromSequence",
        ),
        r"seq(map(int64,tensor(float)))": (_with_output(build, [zipped], "y", MAPS), "options={'zipmap': False}"),
        r"optional(seq(tensor(float)))": (
            _with_output(build, nested, "y", helper.make_optional_type_proto(SEQUENCE)),
            "ConcatFromSequence",
        ),
        r"tensor(float8e4m3fn)": (
            _with_output(build, [narrow], "y", helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, ["N", 2])),
            "with a Cast inside",
        ),
    }


REFUSED = (
    "seq(tensor(float))",
    "seq(map(int64,tensor(float)))",
    "optional(seq(tensor(float)))",
    "tensor(float8e4m3fn)",
)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_tensor_is_refused_with_a_way_out(opened: Any, build: Any, tmp_path: Path, kind: str) -> None:
    model, remedy = _refused(build)[kind]
    with pytest.raises(PackageFormatError) as at_load:
        opened(model, {"x": "float32[N, 2]"}, {"y": "float32[N]"})
    with pytest.raises(PackagingError) as at_packaging:
        create_onnx_neuropod(neuropod_path=tmp_path / "m.neuropod", model_name="m", model=model)

    for caught in (at_load, at_packaging):
        assert f"is of type {kind}, which no tensor of a problem can be" in str(caught.value)
        assert remedy in str(caught.value)


@pytest.mark.parametrize("number", sorted({*TensorProto.DataType.values()} - {TensorProto.UNDEFINED}))
def test_every_element_type_has_onnxruntimes_name(number: int) -> None:
    name = element_name(number)
    known = {"float": "FLOAT", "double": "DOUBLE"}.get(name, name.upper())

    assert known == TensorProto.DataType.Name(number)
    assert number in ELEMENT_TYPES or refusal(f"tensor({name})").remedy


def test_parse_tells_what_kind_of_value_is_declared(build: Any) -> None:
    model = _with_output(build, [], "maps", MAPS)
    model.graph.output.append(helper.make_value_info("perhaps", OPTIONAL))
    model.graph.output.append(helper.make_value_info("sparse", helper.make_sparse_tensor_type_proto(FLOAT, ["N"])))
    found = parse_contents(model.SerializeToString()).outputs

    assert found["maps"].type_name == "seq(map(int64,tensor(float)))"
    assert found["sparse"].type_name == "sparse_tensor(float)"
    assert (found["perhaps"].dtype, found["perhaps"].shape, found["perhaps"].optional) == ("float32", ("N",), True)


def test_optional_tensors_may_be_left_out_and_stay_out(build: Any, tmp_path: Path) -> None:
    nodes = [build.node("OptionalHasElement", "x", "has"), build.node("Identity", "x", "y")]
    model = build.model(nodes, {}, {"has": (TensorProto.BOOL, [])}, opset_imports=[helper.make_opsetid("", 18)])
    model.graph.input.append(helper.make_value_info("x", OPTIONAL))
    model.graph.output.append(helper.make_value_info("y", OPTIONAL))
    create_onnx_neuropod(neuropod_path=tmp_path / "m.neuropod", model_name="m", model=model)
    x = np.array([1, 2], np.float32)
    with load_neuropod(tmp_path / "m.neuropod", trust="data") as loaded:
        for _ in range(4):
            given, nothing = loaded.infer({"x": x}), loaded.infer({})

            assert given["has"].item()
            assert given["y"].tolist() == [1, 2]
            assert not np.shares_memory(given["y"], x)
            assert {name: array.item() for name, array in nothing.items()} == {"has": False}
            assert loaded.infer({"x": x}, ["y"])["y"].tolist() == [1, 2]
