"""Tensors that stay where ONNX Runtime put them, and tensors of other frameworks that go in as they are."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from neuropod_core import InferenceError, ModelClosedError, TensorMismatchError
from neuropod_onnx._native import has_dlpack
from neuropod_onnx.tensors import OrtTensor

FLOAT, STRING, BFLOAT16 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.BFLOAT16
KINDS = {
    np.bool_: TensorProto.BOOL,
    np.float16: TensorProto.FLOAT16,
    np.float32: FLOAT,
    np.int64: TensorProto.INT64,
    np.uint8: TensorProto.UINT8,
}
X = np.arange(6, dtype=np.float32).reshape(2, 3)
needs_dlpack = pytest.mark.skipif(not has_dlpack(), reason="this release of onnxruntime has no DLPack")


@pytest.fixture
def pair(opened: Any, build: Any) -> Any:
    """Open a model of two inputs whose sum and negation come out: ``pair(element type, its name)``."""

    def open_pair(number: int = FLOAT, name: str = "float32") -> Any:
        kind = (number, ["N", 3])
        nodes = [build.node("Identity", "a", "y"), build.node("Identity", "b", "z")]
        graph = build.model(nodes, {"a": kind, "b": kind}, {"y": kind, "z": kind})
        notation = f"{name}[N, 3]"
        return opened(graph, {"a": notation, "b": notation}, {"y": notation, "z": notation})

    return open_pair


class Foreign:
    """A tensor of another framework: it lends memory by DLPack and is no array."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, f"foreign.{array.dtype}"

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("dtype", KINDS, ids=lambda dtype: dtype.__name__)
def test_results_lend_their_memory(pair: Any, dtype: Any) -> None:
    model = pair(KINDS[dtype], np.dtype(dtype).name)
    a = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    y = model.infer_native({"a": a, "b": a})["y"]
    view, lent = np.asarray(y), np.from_dlpack(y)

    assert isinstance(y, OrtTensor)
    assert (y.shape, y.dtype, y.device) == ((2, 3), np.dtype(dtype), "cpu")
    assert view.dtype == lent.dtype == dtype
    assert view.tolist() == lent.tolist() == a.tolist()
    assert np.shares_memory(view, lent)
    assert not np.shares_memory(view, a)
    assert view.flags.writeable
    assert repr(y) == f"<OrtTensor {np.dtype(dtype).name}[2, 3] on cpu>"


@needs_dlpack
def test_bfloat16_is_lent_as_bfloat16(pair: Any) -> None:
    model = pair(BFLOAT16, "bfloat16")
    a = X.astype(ml_dtypes.bfloat16)
    y = model.infer_native({"a": a, "b": a})["y"]
    again = model.infer_native({"a": y, "b": Other(y)})["z"]

    assert y.dtype == ml_dtypes.bfloat16
    assert np.asarray(y).tolist() == np.asarray(again).tolist() == X.tolist()
    for _ in range(4):  # Buffers that the arrays of other calls were bound to are left alone.
        assert model.infer({"a": a, "b": a})["y"].tolist() == X.tolist()
        assert model.infer({"a": Other(y), "b": y})["y"].tolist() == X.tolist()
    assert len(model._lanes._ready[(2, 3), (2, 3)]) == 1


class Other:
    """As `Foreign`, of a type that NumPy's DLPack does not know."""

    def __init__(self, tensor: OrtTensor) -> None:
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype

    def __dlpack__(self, **_: Any) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("method", ["infer", "infer_native"])
def test_tensors_of_other_frameworks_go_in(pair: Any, method: str) -> None:
    model = pair()
    for large in (1, 5000):  # Small ones are copied into bound buffers, large ones are not.
        a = np.repeat(X, large, axis=0)
        for _ in range(4):
            results = getattr(model, method)({"a": Foreign(a), "b": a[:, ::-1]})

            assert np.asarray(results["y"]).tolist() == a.tolist()
            assert np.asarray(results["z"]).tolist() == a[:, ::-1].tolist()


def test_what_lends_nothing_is_an_error_of_the_call(pair: Any) -> None:
    class Elsewhere(Foreign):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("it lies on the moon")

    model = pair()
    for call in (model.infer, model.infer_native):
        with pytest.raises(InferenceError, match=r"(it lies on the moon|takes no tensors of other).* - at inputs.a; "):
            call({"a": Elsewhere(X), "b": X})
    assert model.infer({"a": X, "b": X})["y"].tolist() == X.tolist()


def test_results_outlive_the_model_and_each_other(pair: Any) -> None:
    model = pair()
    results = [model.infer_native({"a": X + i, "b": X})["y"] for i in range(50)]
    views = [np.asarray(tensor) for tensor in results]
    watched = weakref.ref(results[7])
    slice_of_one = views[7][1:]
    del results, views
    model.close()
    gc.collect()

    assert watched() is None
    assert slice_of_one.tolist() == (X + 7)[1:].tolist()
    with pytest.raises(ModelClosedError):
        model.infer_native({"a": X, "b": X})


def test_memory_is_given_back(pair: Any) -> None:
    model = pair()
    large = np.ones((400_000, 3), np.float32)  # 4.8 MB
    model.infer_native({"a": large, "b": large})
    before = _resident()
    for _ in range(50):
        np.asarray(model.infer_native({"a": large, "b": large})["y"])

    assert _resident() - before < 100e6


def _resident() -> int:
    from pathlib import Path

    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_asked_for_outputs_and_missing_inputs(pair: Any) -> None:
    model = pair()

    assert list(model.infer_native({"a": X, "b": X}, ["z"])) == ["z"]
    assert model.infer_native({"a": X, "b": X}, []) == {}
    with pytest.raises(TensorMismatchError, match="inputs.b"):
        model.infer_native({"a": X})


def test_text_stays_arrays(opened: Any, build: Any) -> None:
    nodes = [build.node("Identity", "s", "t"), build.node("Neg", "x", "y"), build.node("Identity", "w", "fixed")]
    kinds = (
        {"s": (STRING, ["M"]), "x": (FLOAT, ["N"])},
        {"t": (STRING, ["M"]), "y": (FLOAT, ["N"]), "fixed": (STRING, [1])},
    )
    graph = build.model(nodes, *kinds, ("w", np.array(["ü"], object)))
    outputs = {"t": "string[M]", "y": "float32[N]", "fixed": "string[1]"}
    model = opened(graph, {"s": "string[M]", "x": "float32[N]"}, outputs)
    results = model.infer_native({"s": np.array(["a", "ö"], object), "x": Foreign(X[0])})

    assert results["t"].tolist() == ["a", "ö"]
    assert results["fixed"].tolist() == ["ü"]
    assert results["y"].tolist() == [0, -1, -2]


def test_text_comes_out_beside_native_tensors(opened: Any, build: Any) -> None:
    nodes = [build.node("Neg", "x", "y"), build.node("Cast", "x", "t", to=STRING)]
    graph = build.model(nodes, {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"]), "t": (STRING, ["N"])})
    results = opened(graph, {"x": "float32[N]"}, {"y": "float32[N]", "t": "string[N]"}).infer_native({"x": X[0]})

    assert isinstance(results["y"], OrtTensor)
    assert results["t"].tolist() == ["0", "1", "2"]


def test_an_array_of_it_may_be_asked_for_in_another_type(pair: Any) -> None:
    y = pair().infer_native({"a": X, "b": X})["y"]

    assert np.asarray(y, np.float64).dtype == np.float64
    assert not np.shares_memory(y.__array__(copy=True), np.asarray(y))
    assert np.shares_memory(y.__array__(copy=False), np.asarray(y))
    with pytest.raises(ValueError, match="a view of float32 as float64 needs a copy"):
        y.__array__(np.float64, copy=False)


def test_its_value_goes_to_another_session(pair: Any, build: Any) -> None:
    y = pair().infer_native({"a": X, "b": X})["y"]
    graph = build.model([build.node("Neg", "x", "n")], {"x": (FLOAT, ["N", 3])}, {"n": (FLOAT, ["N", 3])})
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue(y.value))
    binding.bind_output("n")
    session.run_with_iobinding(binding)

    assert binding.get_outputs()[0].numpy().tolist() == (-X).tolist()


def test_bindings_give_what_plain_calls_give(pair: Any) -> None:
    from neuropod_onnx._native import NativeCalls

    model = pair()
    bound = NativeCalls(model._session, model._run_options, model._signature, bound=True)
    bound._waits = True  # As on a device.
    plain = model._native
    for nodes in (["y", "z"], ["z"]):
        for call in (bound, plain):
            results = call.run(nodes, {"a": X, "b": Foreign(X[:, ::-1])})

            assert all(isinstance(tensor, OrtTensor) for tensor in results)
            wanted = {"y": X, "z": X[:, ::-1]}
            assert [np.asarray(tensor).tolist() for tensor in results] == [wanted[node].tolist() for node in nodes]
