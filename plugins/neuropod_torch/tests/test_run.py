"""Arrays of any layout and type, errors, threads, and the end of a model."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuropod_core.backend import LoadOptions
from neuropod_core.dtypes import DType
from neuropod_core.errors import (
    DeviceError,
    InferenceError,
    ModelClosedError,
    ModelLoadError,
    OptionError,
    OutOfDeviceMemoryError,
)
from neuropod_core.problem import Problem
from neuropod_core.variants import Variant
from neuropod_torch._tensors import copied, lent
from neuropod_torch.plugin import TorchScriptBackend

NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]
FORWARDS = {"identity": "return x", "lent": "return torch.cat([x])", "written": "x.zero_()\n    return x"}


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def unaligned(array: Any) -> Any:
    raw = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


def between_items(array: Any) -> Any:
    """Strides that are no multiple of the item size: one field of a record."""
    records = np.zeros(array.shape, np.dtype([("pad", np.uint8), ("item", array.dtype)]))
    records["item"] = array
    return records["item"]


LAYOUTS = {
    "contiguous": lambda a: a,
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1, ::-1],
    "reversed of one": lambda a: a[:1, ::-1][:, :1],
    "strided": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "read-only": read_only,
    "read-only reversed": lambda a: read_only(a[::-1]),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "empty": lambda a: a[:0],
    "empty reversed": lambda a: a[:0, ::-1],
    "unaligned": unaligned,
    "between items": between_items,
    "large and read-only": lambda a: read_only(np.tile(a, (400, 40))),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("body", FORWARDS.values(), ids=FORWARDS)
def test_any_layout_goes_in_and_stays_as_it_is(body: str, layout: Any, opened: Any) -> None:
    executor = opened(f"def forward(self, x: Tensor):\n    {body}\n", ["x: float32[?, ?]"], ["y: float32[?, ?]"])
    for _ in range(3):
        x = layout(np.arange(12, dtype=np.float32).reshape(3, 4) + 1)
        before = x.copy()

        y = executor.infer({"x": x})["y"]

        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(y, np.zeros_like(before) if "zero_" in body else before)
        assert not np.shares_memory(x, y)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize(
    "body", ["return x", "return x.clone()", "x.zero_()\n    return x"], ids=["alias", "new", "written"]
)
def test_every_type_goes_in_and_out(body: str, dtype: DType, opened: Any) -> None:
    executor = opened(f"def forward(self, x: Tensor):\n    {body}\n", [f"x: {dtype}[?, ?]"], [f"y: {dtype}[?, ?]"])
    values = np.array([[0, 1, 2], [3, 4, 100]]).astype(dtype.numpy)
    for x in (values, values.T, values[::-1], values[:0], read_only(values.copy())):
        y = executor.infer({"x": x})["y"]

        assert y.dtype == dtype.numpy
        assert y.tolist() == (np.zeros_like(x) if "zero_" in body else x).tolist()


def test_scalar_goes_in_and_out(opened: Any) -> None:
    executor = opened("def forward(self, x: Tensor):\n    return x + 1\n", ["x: float64[]"], ["y: float64[]"])

    y = executor.infer({"x": np.array(2.0)})["y"]

    assert (type(y), y.shape, y.item()) == (np.ndarray, (), 3.0)


def test_read_only_array_is_lent_without_a_copy_or_a_warning() -> None:
    array = read_only(np.zeros(100_000, np.float32))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tensor = lent(array)

    assert said == []
    assert tensor.data_ptr() == array.ctypes.data
    assert not array.flags.writeable


def test_lent_memory_lives_as_long_as_the_tensor() -> None:
    array = read_only(np.ones(100_000, np.float32))
    gone = weakref.ref(array)
    tensor = lent(array)

    del array
    gc.collect()
    assert gone() is not None
    assert bool((tensor == 1).all())
    del tensor
    gc.collect()
    assert gone() is None


def test_copied_tensor_shares_nothing() -> None:
    array = np.arange(6.0).reshape(2, 3).T
    tensor = copied(array)

    tensor.zero_()

    assert array.sum() == 15


RETURNED = {
    "sparse": ("x.to_sparse()", "a sparse_coo tensor, which no array can hold.*outputs.y; call to_dense"),
    "sparse relu": ("torch.relu(x.to_sparse())", "a sparse_coo tensor"),
    "csr": ("x.to_sparse_csr()", "a sparse_csr tensor"),
    "quantized": ("torch.quantize_per_tensor(x, 0.1, 0, 13)", "a quantized tensor.*outputs.y; call dequantize"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("case", RETURNED.values(), ids=RETURNED)
def test_result_that_is_no_array_is_named(case: tuple[str, str], opened: Any) -> None:
    returned, message = case
    executor = opened(
        f"def forward(self, x: Tensor):\n    return {returned}\n", ["x: float32[?, ?]"], ["y: float32[?, ?]"]
    )

    with pytest.raises(InferenceError, match=message):
        executor.infer({"x": np.ones((2, 2), np.float32)})


def test_weight_that_wants_gradients_comes_out(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return self.weight * 1\n",
        ["x: float32[1]"],
        ["y: float32[4, 4]"],
        freeze=False,
    )

    assert executor.infer({"x": np.ones(1, np.float32)})["y"].shape == (4, 4)


def test_result_of_another_type_is_left_to_the_checks(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return torch.relu(x).to(torch.bfloat16)\n",
        ["x: float32[1]"],
        ["y: float32[1]"],
    )

    assert executor.infer({"x": np.ones(1, np.float32)})["y"].dtype.name == "bfloat16"


FAILING = {
    "shapes": ("x @ self.weight", "mat1 and mat2 shapes cannot be multiplied"),
    "raise": ("x\n    if x.size(0) != 5:\n        raise ValueError('five, not ' + str(x.size(0)))", "five, not 2"),
    "assert": ("x\n    assert x.size(0) == 5, 'five, please'", "five, please"),
    "index": ("x[7]", "index 7 out of range"),
}


@pytest.mark.parametrize("case", FAILING.values(), ids=FAILING)
def test_failure_in_the_module_is_told_in_one_line(case: tuple[str, str], opened: Any) -> None:
    statement, message = case
    source = f"def forward(self, x: Tensor):\n    y = {statement}\n    return y\n"
    executor = opened(source, ["x: float32[?, ?]"], ["y: float32[?, ?]"])

    for _ in range(3):
        with pytest.raises(InferenceError, match=message) as raised:
            executor.infer({"x": np.ones((2, 3), np.float32)})

        assert isinstance(raised.value.__cause__, RuntimeError | torch.jit.Error)
        assert "\n" not in str(raised.value)
        assert "return y" not in str(raised.value)
        assert "Traceback" not in str(raised.value)


def test_lack_of_memory_is_told_apart(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return torch.ones([1 << 46]) + x\n", ["x: float32[1]"], ["y: float32[?]"]
    )

    with pytest.raises(OutOfDeviceMemoryError, match="no memory left"):
        executor.infer({"x": np.ones(1, np.float32)})


def test_threads_get_the_answers_of_one(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return {'a': self.linear(x), 'b': x.t()}\n",
        ["x: float32[?, 4]"],
        ["a: float32[?, 4]", "b: float32[4, ?]"],
    )
    given = [np.random.default_rng(seed).standard_normal((seed + 1, 4)).astype(np.float32) for seed in range(8)]
    alone = [executor.infer({"x": x}) for x in given]

    def calls(index: int) -> bool:
        results = [executor.infer({"x": given[index]}) for _ in range(100)]
        return all(
            np.allclose(result[name], alone[index][name], rtol=1e-5) for result in results for name in ("a", "b")
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(calls, range(8)))


def test_modes_of_the_caller_change_nothing_and_are_kept(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return self.linear(x)\n", ["x: float32[?, 4]"], ["y: float32[?, 4]"]
    )
    x = np.ones((1, 4), np.float32)
    plain = executor.infer({"x": x})["y"]
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            np.testing.assert_array_equal(executor.infer({"x": x})["y"], plain)
            before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            with pytest.raises(InferenceError):
                executor.infer({"x": x[:, :1]})
            assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


def test_module_runs_in_evaluation_mode(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return self.drop(x) + (1 if self.training else 0)\n",
        ["x: float32[1]"],
        ["y: float32[1]"],
    )

    assert executor.infer({"x": np.ones(1, np.float32)})["y"].tolist() == [1.0]


# The end


def test_closed_executor_says_so(opened: Any) -> None:
    executor = opened("def forward(self, x: Tensor):\n    return x + 1\n", ["x: float32[1]"], ["y: float32[1]"])
    bound = executor.infer

    executor.close()

    for infer in (executor.infer, bound):
        with pytest.raises(ModelClosedError, match="closed; load it again"):
            infer({"x": np.ones(1, np.float32)})


@pytest.mark.parametrize(
    "body", ["return x @ self.big", "self.calls += 1\n    return x @ self.big"], ids=["frozen", "stateful"]
)
def test_closing_frees_the_weights(body: str, saved: Any, announced: Any) -> None:
    class Big(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("big", torch.ones(1024, 16 * 1024))
            self.calls = 0

    with announced():
        module = torch.jit.script(Big())
        module.define(f"def forward(self, x: Tensor):\n    {body}\n")
    variant = Variant("torchscript", saved(module), Problem.of(["x: float32[1, 1024]"], ["y: float32[1, ?]"]))
    del module
    infers = []
    for count in range(6):
        executor = TorchScriptBackend().load(variant, LoadOptions())
        executor.infer({"x": np.ones((1, 1024), np.float32)})
        infers.append(executor.infer)
        executor.close()
        gc.collect()
        if count == 1:
            before = resident_bytes()

    assert resident_bytes() - before < 64 << 20  # four models of 64 MiB came and went


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Loading


def test_device_that_is_not_there_is_refused(opened: Any) -> None:
    for device in ("cuda:99", "cuda:7"):
        with pytest.raises(DeviceError, match=f"'{device}' was asked for, torch sees"):
            opened("def forward(self, x: Tensor):\n    return x\n", ["x: float32[1]"], ["y: float32[1]"], device)


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:-1", "CPU", ""])
def test_device_that_cannot_be_is_refused(device: str, opened: Any) -> None:
    with pytest.raises(DeviceError, match="torch runs on cpu, cuda or cuda:<number> here"):
        opened("def forward(self, x: Tensor):\n    return x\n", ["x: float32[1]"], ["y: float32[1]"], device)


def test_auto_finds_a_device(opened: Any) -> None:
    executor = opened("def forward(self, x: Tensor):\n    return x + 1\n", ["x: float32[1]"], ["y: float32[1]"], "auto")

    assert executor.description["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert executor.infer({"x": np.ones(1, np.float32)})["y"].tolist() == [2.0]


def test_threads_are_left_alone_unless_asked_for(opened: Any) -> None:
    before = torch.get_num_threads()
    source = "def forward(self, x: Tensor):\n    return x\n"
    try:
        assert opened(source, ["x: float32[1]"], ["y: float32[1]"]).description["intra_op_threads"] == before
        executor = opened(source, ["x: float32[1]"], ["y: float32[1]"], intra_op_threads=before + 1)
        assert executor.description["intra_op_threads"] == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("option", "value"), [("freeze", 1), ("intra_op_threads", 0), ("inter_op_threads", "2")])
def test_option_of_the_wrong_kind_is_refused(option: str, value: object, opened: Any) -> None:
    with pytest.raises(OptionError, match=option):
        opened("def forward(self, x: Tensor):\n    return x\n", ["x: float32[1]"], ["y: float32[1]"], **{option: value})


ARTEFACTS = {
    "text": (b"not a model", "cannot open the model"),
    "empty": (b"", "cannot open the model"),
    "truncated": (None, "cannot open the model"),
}


@pytest.mark.parametrize("case", ARTEFACTS.values(), ids=ARTEFACTS)
def test_broken_file_is_refused(case: tuple[bytes | None, str], saved: Any, opened: Any) -> None:
    content, message = case
    folder = saved("def forward(self, x: Tensor):\n    return x\n")
    file = folder / "data" / "model.pt"
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)

    with pytest.raises(ModelLoadError, match=message) as raised:
        opened(folder, ["x: float32[1]"], ["y: float32[1]"])
    assert "0/data/model.pt" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_weights_without_a_program_are_refused(saved: Any, opened: Any) -> None:
    folder = saved("def forward(self, x: Tensor):\n    return x\n")
    torch.save({"w": torch.ones(2)}, folder / "data" / "model.pt")

    with pytest.raises(ModelLoadError, match=r"torch\.jit\.save"):
        opened(folder, ["x: float32[1]"], ["y: float32[1]"])


def test_operator_that_is_not_registered_names_custom_ops(saved: Any, opened: Any) -> None:
    import zipfile

    folder = saved("def forward(self, x: Tensor):\n    return torch.relu(x)\n")
    file = folder / "data" / "model.pt"
    with zipfile.ZipFile(file) as archive:
        content = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data.replace(b"torch.relu(", b"ops.nobody.relu("))

    with pytest.raises(ModelLoadError, match="custom_ops"):
        opened(folder, ["x: float32[1]"], ["y: float32[1]"])


def test_module_without_forward_is_refused(saved: Any, opened: Any, announced: Any) -> None:
    with announced():
        module = torch.jit.script(torch.nn.Module())

    with pytest.raises(ModelLoadError, match="no method forward"):
        opened(module, ["x: float32[1]"], ["y: float32[1]"])


def test_library_that_cannot_be_loaded_is_named(saved: Any, tmp_path: Path) -> None:
    library = tmp_path / "libops.so"
    library.write_bytes(b"no library")
    folder = saved("def forward(self, x: Tensor):\n    return x\n")
    variant = Variant("torchscript", folder, Problem.of(["x: float32[1]"], ["y: float32[1]"]), custom_ops=(library,))

    with pytest.raises(ModelLoadError, match=r"custom operators: .* - at ops/libops\.so; build the library for torch"):
        TorchScriptBackend().load(variant, LoadOptions())


def test_plugin_imports_no_torch() -> None:
    program = (
        "import sys, neuropod_torch, neuropod_torch.plugin, neuropod_torch.packagers; sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
