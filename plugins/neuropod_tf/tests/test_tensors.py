"""Every element type, layout and text that goes in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import DType, InferenceError, ModelLoadError

Open = Callable[..., Any]


def _identity(x: Any) -> dict[str, Any]:
    return {"y": tf.identity(x)}


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)], ids=str)
def test_numbers_keep_type_shape_and_value(serve: Open, dtype: DType, shape: tuple[int, ...]) -> None:
    spec = f"{dtype}[{', '.join('?' * len(shape))}]"
    executor = serve(_identity, spec, {"y": spec})
    x = (np.arange(np.prod(shape, dtype=int)) % 2).astype(dtype.numpy).reshape(shape)
    x.flags.writeable = False

    y = executor.infer({"x": x})["y"]

    assert (type(y), y.dtype, y.shape) == (np.ndarray, x.dtype, x.shape)
    assert y.tolist() == x.tolist()


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x[::-1],
        lambda x: x[:, ::-2],
        np.asfortranarray,
        lambda x: x.T,
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
    ids=["reversed", "strided", "fortran", "transposed", "broadcast"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "string"])
def test_any_layout_is_read_as_it_is(serve: Open, layout: Callable[[Any], Any], dtype: str) -> None:
    executor = serve(_identity, f"{dtype}[?, ?]", {"y": f"{dtype}[?, ?]"})
    numbers = np.arange(24).reshape(4, 6)
    x = layout(numbers.astype(str).astype(object) if dtype == "string" else numbers.astype(DType(dtype).numpy))

    y = executor.infer({"x": x})["y"]

    assert y.tolist() == x.tolist()


_TEXTS = ["", "plain", "naïve", "日本語", "🙂", "a\0b", "trailing\0\0", "\0", "x" * 5000]


@pytest.mark.parametrize("shape", [(), (9,), (3, 3), (0,), (3, 0)], ids=str)
def test_texts_come_back_as_they_went_in(serve: Open, shape: tuple[int, ...]) -> None:
    spec = f"string[{', '.join('?' * len(shape))}]"
    executor = serve(_identity, spec, {"y": spec})
    x = np.empty(shape, object)
    x.reshape(-1)[:] = _TEXTS[-2] if shape == () else _TEXTS[: x.size]

    y = executor.infer({"x": x})["y"]

    assert (y.dtype, y.shape) == (object, shape)
    assert y.tolist() == x.tolist()
    assert all(type(text) is str for text in y.reshape(-1))


def test_texts_are_utf8_inside(serve: Open) -> None:
    executor = serve(lambda x: {"y": tf.strings.length(x)}, "string[N]", {"y": "int32[N]"})

    assert executor.infer({"x": np.array(["é", "日本"], object)})["y"].tolist() == [2, 6]


@pytest.mark.parametrize("shape", ["N", ""])
def test_bytes_that_are_no_text_are_an_error_that_names_the_output(serve: Open, shape: str) -> None:
    def bad(x: Any) -> dict[str, Any]:
        return {"y": tf.strings.substr(x, 0, 1), "good": x}

    executor = serve(bad, f"string[{shape}]", {"y": f"string[{shape}]", "good": f"string[{shape}]"})
    x = np.full((1,) if shape else (), "é", object)

    with pytest.raises(InferenceError, match=r"no UTF-8 text .* - at outputs\.y"):
        executor.infer({"x": x})
    assert executor.infer({"x": x}, ["good"])["good"].tolist() == x.tolist()


def test_a_text_without_utf8_form_is_an_error_that_names_the_input(serve: Open) -> None:
    executor = serve(_identity, "string[N]", {"y": "string[N]"})

    with pytest.raises(InferenceError, match=r"no UTF-8 form - at inputs\.x"):
        executor.infer({"x": np.array(["\ud800"], object)})
    assert executor.infer({"x": np.array(["fine"], object)})["y"].tolist() == ["fine"]


@pytest.mark.parametrize(
    ("function", "x", "y", "words"),
    [
        (_identity, "float32[N]", "float64[N]", r"expected float64\[N\] .*has float32\[\?\].* - at outputs\.y"),
        (_identity, "float32[N]", "float32[N, 2]", r"expected float32\[N, 2\] .*has float32\[\?\]"),
        (_identity, "float32[3]", "float32[4]", r"expected float32\[4\] .*has float32\[3\]"),
        (lambda x: {"y": tf.complex(x, x)}, "float32[N]", "float32[N]", r"has complex64\[\?\]"),
    ],
    ids=["type", "rank", "length", "a type that is none of ours"],
)
def test_a_model_that_contradicts_the_problem_is_refused(
    serve: Open, function: Any, x: str, y: str, words: str
) -> None:
    with pytest.raises(ModelLoadError, match=words):
        serve(function, x, {"y": y})


def test_shapes_that_the_model_leaves_open_fit_any_problem(serve: Open) -> None:
    def unknown(x: Any) -> dict[str, Any]:
        return {"y": tf.numpy_function(lambda z: z, [x], tf.float32, stateful=False)}

    for y in ("float32[N]", "float32[7]", "float32[?, 3]"):
        serve(unknown, "float32[N]", {"y": y})
