"""What goes in and what comes out: types, layouts, names, errors."""

from __future__ import annotations

import threading
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from neuropod_core import (
    DType,
    InferenceError,
    ModelClosedError,
    ModelLoadError,
    OutOfDeviceMemoryError,
    TensorMismatchError,
)

FLOAT, STRING, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64
CALLS = 5  # The first calls of a shape bind anew, later ones find their buffers bound.
ELEMENTS = {
    "float16": (TensorProto.FLOAT16, np.float16),
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "int8": (TensorProto.INT8, np.int8),
    "int16": (TensorProto.INT16, np.int16),
    "int32": (TensorProto.INT32, np.int32),
    "int64": (TensorProto.INT64, np.int64),
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "bool": (TensorProto.BOOL, np.bool_),
    "string": (TensorProto.STRING, np.object_),
}
HAS_BFLOAT16 = hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")
LAYOUTS: dict[str, Any] = {
    "contiguous": lambda a: a,
    "fortran": np.asfortranarray,
    "negative strides": lambda a: a[::-1, ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "zero strides": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) if a.dtype != object else a,
    "unaligned": lambda a: _unaligned(a) if a.dtype != object else a,
}


def _unaligned(array: Any) -> Any:
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    memory[:] = np.frombuffer(array.tobytes(), np.uint8)
    return memory.view(array.dtype).reshape(array.shape)


def _values(name: str, shape: tuple[int, ...]) -> Any:
    count = int(np.prod(shape, dtype=int))
    if name == "string":
        texts = ["", "ü", "a\0b", "日本語", "x" * 40, "y"]
        return np.array([texts[i % 6] for i in range(count)], object).reshape(shape)
    return (np.arange(count) % 7).astype(ELEMENTS[name][1]).reshape(shape)


@pytest.fixture(params=list(ELEMENTS))
def element(request: pytest.FixtureRequest) -> str:
    if request.param == "bfloat16" and not HAS_BFLOAT16:
        pytest.skip("this onnxruntime takes no bfloat16")
    return str(request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_identity_gives_every_type_back_from_every_layout(opened: Any, build: Any, element: str, layout: str) -> None:
    number = ELEMENTS[element][0]
    identity = build.model([build.node("Identity", "x", "y")], {"x": (number, ["N", 3])}, {"y": (number, ["N", 3])})
    model = opened(identity, {"x": f"{element}[N, 3]"}, {"y": f"{element}[N, 3]"})
    array = LAYOUTS[layout](_values(element, (2, 3)))
    for _ in range(CALLS):
        result = model.infer({"x": array})["y"]

        assert result.dtype == DType(element).numpy
        assert result.shape == (2, 3)
        assert result.tolist() == array.tolist()
        assert result.flags.writeable
        assert not np.shares_memory(result, array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)], ids=str)
def test_scalars_and_empty_tensors_keep_shape_and_type(
    opened: Any, build: Any, element: str, shape: tuple[int, ...]
) -> None:
    number = ELEMENTS[element][0]
    dims = [f"d{i}" for i in range(len(shape))]
    identity = build.model([build.node("Identity", "x", "y")], {"x": (number, dims)}, {"y": (number, dims)})
    notation = f"{element}[{', '.join(dims)}]"
    model = opened(identity, {"x": notation}, {"y": notation})
    array = _values(element, shape)
    for _ in range(CALLS):
        result = model.infer({"x": array})["y"]

        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == (shape, DType(element).numpy)
        assert result.tolist() == array.tolist()


def test_text_comes_out_beside_bfloat16(opened: Any, build: Any) -> None:
    if not HAS_BFLOAT16:
        pytest.skip("this onnxruntime takes no bfloat16")
    nodes = [build.node("Identity", "x", "y"), build.node("Identity", "w", "t")]
    kind = (TensorProto.BFLOAT16, ["N"])
    text = ("w", np.array(["ü", ""], object))
    graph = build.model(nodes, {"x": kind}, {"y": kind, "t": (STRING, [2])}, text)
    model = opened(graph, {"x": "bfloat16[N]"}, {"y": "bfloat16[N]", "t": "string[2]"})
    result = model.infer({"x": np.array([1, 2], ml_dtypes.bfloat16)})

    assert result["y"].tolist() == [1, 2]
    assert result["t"].tolist() == ["ü", ""]


def test_text_going_in_beside_bfloat16_is_refused_at_load(opened: Any, build: Any) -> None:
    nodes = [build.node("Identity", "x", "y"), build.node("Identity", "s", "t")]
    inputs = {"x": (TensorProto.BFLOAT16, ["N"]), "s": (STRING, ["M"])}
    graph = build.model(nodes, inputs, {"y": inputs["x"], "t": inputs["s"]})
    with pytest.raises(ModelLoadError, match="bfloat16"):
        opened(graph, {"x": "bfloat16[N]", "s": "string[M]"}, {"y": "bfloat16[N]", "t": "string[M]"})


def test_shapes_may_change_from_call_to_call(opened: Any, build: Any) -> None:
    model = opened(build.mlp(), {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"})
    arrays = [np.random.default_rng(n).random((n, 64), np.float32) for n in (1, 2, 1, 0, 3, 3, 3, 500, 1, 3, 2, 2)]
    expected = {len(a): model.infer({"x": a})["y"] for a in arrays}

    assert [model.infer({"x": a})["y"].shape for a in arrays] == [(len(a), 10) for a in arrays]
    assert {len(a): model.infer({"x": a})["y"].tolist() for a in arrays} == {n: y.tolist() for n, y in expected.items()}


def test_more_shapes_than_are_kept_bound_still_give_right_answers(opened: Any, build: Any) -> None:
    identity = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    model = opened(identity, {"x": "float32[N]"}, {"y": "float32[N]"})
    for length in [n for n in range(1, 60) for _ in range(4)] * 2:
        array = np.arange(length, dtype=np.float32)

        assert (model.infer({"x": array})["y"] == -array).all()


def test_shapes_that_depend_on_values_are_found_out(opened: Any, build: Any) -> None:
    nonzero = build.model([build.node("NonZero", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (INT64, [1, "M"])})
    model = opened(nonzero, {"x": "float32[N]"}, {"y": "int64[1, M]"})
    for row in ([1, 0, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 1]):
        array = np.array(row, np.float32)

        assert model.infer({"x": array})["y"].tolist() == [np.flatnonzero(array).tolist()]


def test_random_numbers_are_drawn_anew_in_each_call(opened: Any, build: Any) -> None:
    noise = build.model(
        [build.node("RandomNormalLike", "x", "r"), build.node("Add", "x r", "y")],
        {"x": (FLOAT, ["N"])},
        {"y": (FLOAT, ["N"])},
    )
    model = opened(noise, {"x": "float32[N]"}, {"y": "float32[N]"})
    results = {model.infer({"x": np.zeros(4, np.float32)})["y"].tobytes() for _ in range(20)}

    assert len(results) == 20


def test_more_calls_at_once_than_buffers_are_kept_for(opened: Any, build: Any) -> None:
    negation = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    model = opened(negation, {"x": "float32[N]"}, {"y": "float32[N]"})
    x = np.arange(4, dtype=np.float32)
    for _ in range(3):
        model.infer({"x": x})
    lanes = model._lanes._ready[(4,)]
    borrowed = []
    for _ in range(20):  # As if that many other threads were in the middle of a call.
        if lanes:
            borrowed.append(lanes.pop())
        assert model.infer({"x": x})["y"].tolist() == [0, -1, -2, -3]
    assert len(borrowed) == 8


def test_a_failed_call_leaves_the_model_as_fast_and_right_as_before(opened: Any, build: Any) -> None:
    gather = build.model(
        [build.node("Gather", "w i", "y")],
        {"i": (INT64, ["N"])},
        {"y": (FLOAT, ["N"])},
        ("w", np.arange(4, dtype=np.float32)),
    )
    model = opened(gather, {"i": "int64[N]"}, {"y": "float32[N]"})
    for _ in range(20):
        assert model.infer({"i": np.array([3, 1])})["y"].tolist() == [3, 1]
        with pytest.raises(InferenceError, match="indices element out of data bounds") as caught:
            model.infer({"i": np.array([3, 99])})
        assert caught.value.__cause__ is not None
        assert "\n" not in str(caught.value)
    assert len(model._lanes._ready[(2,)]) == 1


def test_infer_gives_the_outputs_that_were_asked_for(opened: Any, build: Any) -> None:
    both = build.model(
        [build.node("Neg", "x", "y"), build.node("Abs", "x", "z")],
        {"x": (FLOAT, ["N"])},
        {"y": (FLOAT, ["N"]), "z": (FLOAT, ["N"])},
    )
    model = opened(both, {"x": "float32[N]"}, {"z": "float32[N]", "y": "float32[N]"})
    x = np.array([-1, 2], np.float32)

    assert list(model.infer({"x": x})) == ["z", "y"]
    assert {name: a.tolist() for name, a in model.infer({"x": x}, ["y"]).items()} == {"y": [1, -2]}
    assert model.infer({"x": x}, []) == {}


def test_names_are_mapped_both_ways(opened: Any, build: Any) -> None:
    swapped = build.model(
        [build.node("Sub", "a b", "c")],
        {"a": (FLOAT, ["N"]), "b": (FLOAT, ["N"])},
        {"c": (FLOAT, ["N"])},
    )
    config = {"node_name_mapping": {"b": "a", "a": "b", "difference": "c"}}
    model = opened(swapped, {"a": "float32[N]", "b": "float32[N]"}, {"difference": "float32[N]"}, config=config)
    one, two = np.ones(1, np.float32), np.full(1, 2, np.float32)
    for _ in range(CALLS):
        assert model.infer({"a": one, "b": two})["difference"].tolist() == [1]


def test_an_input_with_a_default_may_be_left_out(opened: Any, build: Any) -> None:
    scaled = build.model(
        [build.node("Mul", "x scale", "y")],
        {"x": (FLOAT, ["N"]), "scale": (FLOAT, [1])},
        {"y": (FLOAT, ["N"])},
        ("scale", np.array([10], np.float32)),
    )
    optional = {"dtype": "float32", "shape": [1], "optional": True}
    model = opened(scaled, {"x": "float32[N]", "scale": optional}, {"y": "float32[N]"})
    x, scale = np.ones(2, np.float32), np.array([3], np.float32)
    for _ in range(CALLS):
        assert model.infer({"x": x})["y"].tolist() == [10, 10]
        assert model.infer({"x": x, "scale": scale})["y"].tolist() == [3, 3]


def test_an_input_without_a_default_cannot_be_left_out(opened: Any, build: Any, capfd: Any) -> None:
    optional = {"dtype": "float32", "shape": ["N"], "optional": True}
    identity = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    model = opened(identity, {"x": optional}, {"y": "float32[N]"})
    with pytest.raises(TensorMismatchError, match=r"expected float32\[N\], got nothing - at inputs.x; the model"):
        model.infer({})

    assert capfd.readouterr() == ("", "")


def test_a_wrong_type_is_refused_and_never_cast(opened: Any, build: Any) -> None:
    model = opened(build.mlp(), {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"})
    for _ in range(CALLS):
        model.infer({"x": np.zeros((1, 64), np.float32)})
    with pytest.raises(InferenceError, match="double"):
        model.infer({"x": np.zeros((1, 64), np.float64)})


def test_a_fixed_size_of_the_model_is_enforced(opened: Any, build: Any, capfd: Any) -> None:
    fixed = build.model([build.node("Neg", "x", "y")], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])})
    model = opened(fixed, {"x": "float32[N]"}, {"y": "float32[N]"})
    with pytest.raises(InferenceError, match=r"index: 0 Got: 2 Expected: 1"):
        model.infer({"x": np.ones(2, np.float32)})

    assert capfd.readouterr() == ("", "")


def test_too_little_memory_has_its_own_error(opened: Any, build: Any, capfd: Any) -> None:
    huge = build.model([build.node("ConstantOfShape", "n", "y")], {"n": (INT64, [1])}, {"y": (FLOAT, ["N"])})
    model = opened(huge, {"n": "int64[1]"}, {"y": "float32[N]"})
    with pytest.raises(OutOfDeviceMemoryError, match="no memory left for this call"):
        model.infer({"n": np.array([2**46])})

    assert capfd.readouterr() == ("", "")


def test_text_that_utf8_cannot_hold_is_an_error(opened: Any, build: Any) -> None:
    identity = build.model([build.node("Identity", "x", "y")], {"x": (STRING, ["N"])}, {"y": (STRING, ["N"])})
    model = opened(identity, {"x": "string[N]"}, {"y": "string[N]"})
    with pytest.raises(InferenceError, match="surrogates not allowed"):
        model.infer({"x": np.array(["\ud800"], object)})


def test_a_closed_model_says_so(opened: Any, build: Any) -> None:
    model = opened(build.mlp(), {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"})
    infer = model.infer
    for _ in range(CALLS):
        infer({"x": np.zeros((1, 64), np.float32)})
    model.close()
    for call in (infer, model.infer):
        with pytest.raises(ModelClosedError):
            call({"x": np.zeros((1, 64), np.float32)})


def test_the_public_methods_serve_where_the_inner_ones_are_missing(opened: Any, build: Any) -> None:
    from neuropod_onnx._executor import OnnxExecutor

    model = opened(build.mlp(), {"x": "float32[N, 64]"}, {"y": "float32[N, 10]"})
    public = OnnxExecutor(_PublicSession(model._session), model._run_options, model._signature)
    x = np.random.default_rng(0).random((1, 64), np.float32)
    expected = model.infer({"x": x})["y"].tolist()

    assert [public.infer({"x": x})["y"].tolist() for _ in range(CALLS)] == [expected] * CALLS
    assert public._lanes is not None
    assert len(public._lanes._ready) == 1


class _PublicSession:
    """A session that has only what ONNX Runtime documents."""

    def __init__(self, session: Any) -> None:
        for name in ("run", "run_with_iobinding", "get_providers", "io_binding"):
            setattr(self, name, getattr(session, name))


def test_eight_threads_get_the_answers_of_one(opened: Any, build: Any) -> None:
    model = opened(build.mlp(two_inputs=True), {"x": "float32[N, 64]", "z": "float32[N, 64]"}, {"y": "float32[N, 10]"})
    random = np.random.default_rng(3)
    calls = [{name: random.random((1 + i % 3, 64), np.float32) for name in "xz"} for i in range(24)]
    expected = [model.infer(call)["y"].tobytes() for call in calls]
    wrong: list[object] = []
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        barrier.wait()
        for i in np.random.default_rng(seed).integers(0, len(calls), 400):
            result = model.infer(calls[i])["y"]
            if result.tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
