"""Archives that torch 1.0 to 1.3 wrote: the two that the original ships, and others put together to the same layout."""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropod_core import ModelLoadError, NeuropodError, load_neuropod
from neuropod_core.packaging import repack
from neuropod_core.testing.damage import damaged
from neuropod_torch._rewrap import rewrapped

GOLDEN = Path(__file__).parents[3] / "tests" / "golden" / "torch_2019"
X = np.array([[1, 2], [3, 4]], np.float32)
Y = np.array([[7, 8], [9, 10]], np.float32)


def pickled(*attributes: bytes) -> bytes:
    return b"\x80\x02(" + b"".join(attributes) + b"t."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


LINEAR = """op_version_set = 1
def forward(self,
    x: Tensor) -> Tensor:
  return torch.addmm(self.bias, x, torch.t(self.weight), beta=1, alpha=1)
"""
MAIN = """op_version_set = 1
def forward(self,
    x: Tensor) -> Tensor:
  _0 = self.first.forward(x)
  _1 = torch.relu(torch.add(_0, CONSTANTS.c3, alpha=1))
  _2 = getattr(self.layers, "0").forward(_1)
  return self.scaled(_2)
def scaled(self,
    x: Tensor) -> Tensor:
  if torch.eq(self.times, 3):
    y = torch.mul(x, self.factor)
  else:
    y = x
  return torch.add(torch.mul(y, torch.len(self.names)), self.offsets["one"], alpha=1)
"""
WEIGHTS = {
    "tensors/0": np.arange(12, dtype=np.float32),
    "tensors/1": np.array([2.5], np.float32),
    "tensors/2": np.arange(6, dtype=np.float32),
}


def tensor(record: str, sizes: list[int], strides: list[int], offset: int = 0, **more: Any) -> dict[str, Any]:
    """Describe a tensor as protobuf writes it: 64-bit numbers are texts."""
    view = {"dims": list(map(str, sizes)), "strides": list(map(str, strides)), "offset": str(offset)}
    place = {"data": {"key": record, "size": "0"}, "dataType": "FLOAT", "device": "cpu", "requiresGrad": False}
    return {**view, **place, **more}


def layer(name: str, weight: int, bias: int) -> dict[str, Any]:
    parameters = [
        {"isBuffer": False, "tensorId": str(weight), "name": "weight"},
        {"isBuffer": False, "tensorId": str(bias), "name": "bias"},
    ]
    return {"name": name, "parameters": parameters, "torchscriptArena": {"key": f"code/model_{name}.py"}}


def document() -> dict[str, Any]:
    """Describe a model with submodules, parameters and buffers that share records, attributes and a constant."""
    tensors = [
        tensor("tensors/0", [2, 3], [1, 4]),  # a view across its record
        tensor("tensors/0", [2], [1], 10, requiresGrad=True),
        tensor("tensors/1", [], []),
        tensor("tensors/2", [2], [2], 1),
        tensor("tensors/2", [2, 2], [1, 2]),
    ]
    attributes = [
        {"type": "int", "name": "times", "id": "0"},
        {"type": "List[str]", "name": "names", "id": "1"},
        {"type": "Dict[str, Tensor]", "name": "offsets", "id": "2"},
        {"type": "Optional[int]", "name": "unset", "id": "-1"},
    ]
    main = {
        "name": "model",
        "optimize": True,
        "submodules": [layer("first", 0, 1), {"name": "layers", "submodules": [layer("0", 4, 3)]}],
        "parameters": [{"isBuffer": True, "tensorId": "2", "name": "factor"}],
        "attributes": attributes,
        "torchscriptArena": {"key": "code/model.py"},
    }
    return {"protoVersion": "3", "mainModule": main, "producerName": "pytorch", "tensors": tensors}


LIBRARY_FILES = {
    "in_torch": "libs/__torch__.py",
    "in_shapes": "libs/__torch__/shapes.py",
}


def archive(changed: Callable[[dict[str, Any]], None] = lambda _: None, **files: bytes | None) -> bytes:
    """Write the archive of `document`, with changes to it and to files: ``code__model_py`` is ``code/model.py``."""
    described = document()
    changed(described)
    names = b"](" + text("a") + text("b") + b"e"
    reference = b"ctorch.jit._pickle\nbuild_tensor_from_id\n(K\x03tR"
    content: dict[str, bytes] = {
        "version": b"1\n",
        "model.json": json.dumps(described).encode(),
        "code/model.py": MAIN.encode(),
        "code/model_first.py": LINEAR.encode(),
        "code/model_0.py": LINEAR.encode(),
        "attributes.pkl": pickled(b"K\x03", names, b"}(" + text("one") + reference + b"u"),
        **{name: array.tobytes() for name, array in WEIGHTS.items()},
    }
    for name, data in files.items():
        place = name.replace("__", "/").replace("_py", ".py").replace("_pkl", ".pkl").replace("_json", ".json")
        place = LIBRARY_FILES.get(name, place)
        content.pop(place, None)
        if data is not None:
            content[place] = data
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as written:
        for name, data in content.items():
            written.writestr(f"model/{name}", data)
    return target.getvalue()


def expected(x: Any) -> Any:
    """Compute by NumPy what the archive of `document` computes."""
    w0 = np.lib.stride_tricks.as_strided(WEIGHTS["tensors/0"], (2, 3), (4, 16))
    b0, c3 = WEIGHTS["tensors/0"][10:12], WEIGHTS["tensors/2"][1::2][:2]
    w4 = np.lib.stride_tricks.as_strided(WEIGHTS["tensors/2"], (2, 2), (4, 8))
    hidden = np.maximum(x @ w0.T + b0 + c3, 0)
    return (hidden @ w4.T + c3) * 2.5 * 2 + c3


@pytest.fixture
def opened_archive(opened: Any, tmp_path: Path) -> Callable[[bytes], Any]:
    """Open the content of an archive as a package would."""

    def open_(content: bytes) -> Any:
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "0"
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "model.pt").write_bytes(content)
        return opened(folder, {"x": "float32[N, 3]"}, {"y": "float32[N, 2]"})

    return open_


@pytest.mark.parametrize("name", ["torchscript_addition_model", "torchscript_addition_model_single_output"])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_packages_of_2019_give_their_values(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    path = GOLDEN / name
    if form == "archive":
        path = tmp_path / "packed.neuropod"
        repack(GOLDEN / name, path)

    with load_neuropod(path) as model:
        np.testing.assert_array_equal(model.infer({"x": X, "y": Y})["out"], X + Y)


def test_input_that_the_model_does_not_take_cannot_be_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    with (
        load_neuropod(GOLDEN / "torchscript_addition_model_single_output") as model,
        pytest.raises(NeuropodError, match="optional"),
    ):
        model.infer({"x": X, "y": Y, "optional": np.array(["a", "b"], object)})


def test_weights_attributes_and_constants_are_kept(opened_archive: Callable[[bytes], Any]) -> None:
    model = opened_archive(archive())
    x = np.arange(12, dtype=np.float32).reshape(4, 3) - 5

    np.testing.assert_allclose(model.infer({"x": x})["y"], expected(x), rtol=1e-6)
    assert not model.stateful


LIBRARIES = {
    "in_torch": """op_version_set = 1
import __torch__.shapes
class Parts(NamedTuple):
  low : Tensor
  high : Tensor
class Split:
  scale : __torch__.shapes.Scale
  def __init__(self: __torch__.Split,
    factor: Tensor) -> None:
    _0 = __torch__.shapes.Scale.__new__(__torch__.shapes.Scale)
    _1 = (_0).__init__(factor, 3, )
    self.scale = _0
    return None
  def parts(self: __torch__.Split,
    x: Tensor) -> __torch__.Parts:
    y = (self.scale).scaled(x, )
    return __torch__.Parts(torch.sub(y, CONSTANTS.c3, alpha=1), torch.add(y, CONSTANTS.c3, alpha=1))
""",
    "in_shapes": """op_version_set = 1
class Scale:
  factor : Tensor
  times : int
  def __init__(self: __torch__.shapes.Scale,
    factor: Tensor,
    times: int) -> None:
    self.factor = factor
    self.times = times
    return None
  def scaled(self: __torch__.shapes.Scale,
    x: Tensor) -> Tensor:
    return torch.mul(torch.mul(x, self.factor), self.times)
""",
}
USES_CLASSES = """op_version_set = 1
import __torch__
def forward(self,
    x: Tensor) -> Tensor:
  _0 = __torch__.Split.__new__(__torch__.Split)
  _1 = (_0).__init__(self.factor, )
  _2 = self.first.forward(x)
  _3 = (_0).parts(_2, )
  return torch.add((_3).low, (_3).high, alpha=1)
"""


def test_classes_of_libraries_are_taken_along(opened_archive: Callable[[bytes], Any]) -> None:
    """Two files of classes that use each other, a NamedTuple, and a constant that one of them names."""
    in_torch, in_shapes = (LIBRARIES[name].encode() for name in ("in_torch", "in_shapes"))
    model = opened_archive(archive(code__model_py=USES_CLASSES.encode(), in_torch=in_torch, in_shapes=in_shapes))
    x = np.arange(12, dtype=np.float32).reshape(4, 3) - 5

    w0 = np.lib.stride_tricks.as_strided(WEIGHTS["tensors/0"], (2, 3), (4, 16))
    hidden = x @ w0.T + WEIGHTS["tensors/0"][10:12]
    np.testing.assert_allclose(model.infer({"x": x})["y"], 2 * hidden * 2.5 * 3, rtol=1e-6)


def test_class_that_no_library_has_is_told(opened_archive: Callable[[bytes], Any]) -> None:
    content = archive(code__model_py=USES_CLASSES.encode(), in_torch=LIBRARIES["in_torch"].encode())

    with pytest.raises(ModelLoadError, match=r"shapes"):
        opened_archive(content)


def test_rewrapped_archive_names_parameters_and_buffers(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(archive())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(rewrapped(tmp_path / "old.pt"))

    assert {name for name, _ in module.named_parameters()} == {
        f"{place}.{name}" for place in ("first", "layers.0") for name in ("weight", "bias")
    }
    assert [name for name, _ in module.named_buffers()] == ["factor"]
    assert [name for name, one in module.named_parameters() if one.requires_grad] == ["first.bias"]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set one place of the document: ``tensors.0.offset``."""

    def changed(described: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = described
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[int(last) if isinstance(place, list) else last] = value

    return changed


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("protoVersion", "9", "protoVersion is 9"),
        ("tensors.0.offset", "5", "reaches to element"),
        ("tensors.0.offset", "-1", "is no size"),
        ("tensors.0.dims", ["9223372036854775807", "3"], "is no size"),
        ("tensors.0.strides", ["1"], "2 sizes and 1 strides"),
        ("tensors.0.dataType", "STRING", "'STRING'"),
        ("tensors.0.isQuantized", True, "quantized"),
        ("tensors.0.data.key", "tensors/9", "no 'tensors/9'"),
        ("tensors.0.dims", 7, "are no sizes"),
        ("mainModule.parameters.0.tensorId", "77", "number 77 of a table of 5"),
        ("mainModule.parameters.0.name", 'x"]\nimport os', "is no name"),
        ("mainModule.attributes.0.id", "4", "number 4 of a table of 3"),
        ("mainModule.attributes.0.type", "int\nimport os", "is of type"),
        ("mainModule.torchscriptArena.key", "code/absent.py", "no 'code/absent.py'"),
        ("mainModule", [], "cannot be read"),
    ],
)
def test_archive_that_contradicts_itself_is_refused(
    path: str, value: Any, told: str, opened_archive: Callable[[bytes], Any]
) -> None:
    with pytest.raises(ModelLoadError, match="archive of torch 1.0 to 1.3 cannot be read") as raised:
        opened_archive(archive(change(path, value)))

    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        (pickled(b"cos\nsystem\n(" + text("true") + b"tR"), "os.system"),
        (b"\x80\x02(" + b"(" * 50, "end too early"),
        (pickled(b"i"), "opcode"),
        (pickled(b"ctorch.jit._pickle\nbuild_tensor_from_id\n(K\x63tR"), "tensor 99 of 5"),
        (b"\x80\x04N.", "another protocol"),
        (b"", "end too early"),
    ],
    ids=["function", "marks", "opcode", "tensor", "protocol", "empty"],
)
def test_attributes_of_other_kinds_are_refused(
    attributes: bytes, told: str, opened_archive: Callable[[bytes], Any]
) -> None:
    with pytest.raises(ModelLoadError) as raised:
        opened_archive(archive(attributes_pkl=attributes))

    assert told in str(raised.value)


def test_code_that_is_no_method_is_refused(opened_archive: Callable[[bytes], Any]) -> None:
    with pytest.raises(ModelLoadError, match="where methods are expected"):
        opened_archive(archive(code__model_py=b"op_version_set = 1\nclass Other(Module):\n  pass\n"))


def test_nested_beyond_measure_is_refused(opened_archive: Callable[[bytes], Any]) -> None:
    deep = b'{"mainModule":' + b'{"submodules":[' * 100_000

    with pytest.raises(ModelLoadError, match="cannot be read"):
        opened_archive(archive(model_json=deep))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 2**32))
def test_damaged_archives_end_in_our_errors_or_load(number: int, tmp_path: Path) -> None:
    content = damaged(archive(), random.Random(number))  # noqa: S311 - the same damage in each run
    (tmp_path / "old.pt").write_bytes(content)

    try:
        written = rewrapped(tmp_path / "old.pt")
    except ModelLoadError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either end is right
    else:
        assert zipfile.ZipFile(written).testzip() is None
