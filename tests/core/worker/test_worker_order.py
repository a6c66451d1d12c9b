"""Tensors keep the order of their axes on the way to a worker and back: so results are the same bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import worker_order
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from worker_marks import TRANSPORTS

from neuropod_core import Neuropod, Problem, Worker, WorkerProtocolError, load_neuropod, plugins
from neuropod_core.placement.worker._layouts import layout_from_json, layout_of, order_of, orders_of
from neuropod_core.testing import fake_package

SMALL, LARGE = (17, 23, 29), (31, 67, 129)
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "usual": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    **{f"axes {axes}": lambda x, axes=axes: x.transpose(axes) for axes in permutations(range(3))},  # type: ignore[misc]  # axes is bound
}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    plugins.register(worker_order, "order")
    outputs = {"y": "float32[A, B, C]", "sum": "float32[]", "steps": "int64[3]"}
    problem = Problem.of({"x": "float32[A, B, C]"}, outputs, name="order")
    yield fake_package(tmp_path / "order.neuropod", "order", problem)
    plugins.unregister("order")


@pytest.fixture
def here(path: Path, tmp_path: Path) -> Iterator[Neuropod]:
    with load_neuropod(path, cache_dir=tmp_path / "cache") as model:
        yield model


@pytest.fixture(params=TRANSPORTS)
def there(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> Iterator[Neuropod]:
    with load_neuropod(path, placement=Worker(transport=request.param), cache_dir=tmp_path / "cache") as model:
        yield model


def test_gaps_and_reversed_axes_are_left_out(here: Neuropod, there: Neuropod) -> None:
    x = np.asfortranarray(np.arange(np.prod(SMALL), dtype=np.float32).reshape(SMALL))
    for given_x in (np.asfortranarray(np.repeat(x, 2, axis=1))[:, ::2], x[::-1, :, ::-1]):
        expected, got = here.infer({"x": given_x}), there.infer({"x": given_x})

        assert np.array_equal(got["y"], expected["y"])
        assert tuple(got["steps"]) == x.strides


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_results_are_those_of_this_process_however_inputs_lie(
    shape: tuple[int, ...], here: Neuropod, there: Neuropod
) -> None:
    x = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    sums = set()
    for kind in (*KINDS.values(), *list(KINDS.values())[::-1]):  # Each after itself once, and after others.
        given_x = kind(x)
        expected, got = here.infer({"x": given_x}), there.infer({"x": given_x})

        assert got["y"].strides == expected["y"].strides
        assert np.array_equal(got["y"], expected["y"])
        assert got["sum"].tobytes() == expected["sum"].tobytes()
        assert tuple(got["steps"]) == np.copy(given_x, "K").strides
        sums.add(expected["sum"].tobytes())
    assert len(sums) > 1, "the order makes no difference, so nothing was shown"


@given(
    array=hnp.arrays(np.int16, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)),
    axes=st.permutations(range(5)),
)
def test_an_array_without_gaps_lies_as_it_lay(array: np.ndarray, axes: list[int]) -> None:
    array = array.transpose([axis for axis in axes if axis < array.ndim])
    (place,) = layout_from_json(layout_of({"x": array}, (), orders_of({"x": array})).to_json()).places
    memory = np.zeros(max(array.nbytes, 1), np.uint8)
    view = place.view(memory)
    view[...] = array

    assert np.array_equal(view, array)
    assert place.touching(view).tobytes() == memory.tobytes()[: array.nbytes]
    assert np.array_equal(place.in_shape(np.ndarray(place.touching_shape, np.int16, memory)), array)
    steps = [step for step, length in zip(view.strides, view.shape, strict=True) if length > 1]
    assert not array.size or steps == [
        step for step, length in zip(array.strides, array.shape, strict=True) if length > 1
    ]


def test_arrays_whose_elements_share_memory_lie_in_the_usual_order() -> None:
    assert order_of(np.broadcast_to(np.zeros(3), (4, 3)).T) is None
    assert order_of(np.zeros((4, 3)).T) == (1, 0)
    assert order_of(np.zeros((4, 1, 3)).T) == (1, 2, 0)
    assert order_of(np.zeros((4, 3))[::-1, ::-1]) is None


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [1, 0, 2], [True, False], ["0", 1], 5, {}, [0.0, 1.0]], ids=str)
def test_an_order_that_is_none_is_refused(order: object) -> None:
    with pytest.raises(WorkerProtocolError, match="a layout of tensors cannot be"):
        layout_from_json([["x", "float32", [2, 3], False, order]])
    assert layout_from_json([["x", "float32", [2, 3], False, [1, 0]]]).places[0].strides == (4, 8)
    with pytest.raises(WorkerProtocolError, match="a layout of tensors cannot be"):
        layout_from_json([["x", "string", [2, 3], False, [1, 0]]])
