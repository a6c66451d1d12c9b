"""What belongs to a caller, inputs and results alike, nobody else changes: whatever the model does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from neuropod_core import Array, Neuropod

Opened = Callable[[str, str], Neuropod]

EXPECTED: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "in_place": lambda x: x + 1,
    "buffer": lambda x: x,
    "constant": lambda x: np.full_like(x, 7),
}

kinds = pytest.mark.parametrize("kind", EXPECTED)


def numbers(first: int) -> Array:
    return np.arange(first, first + 4, dtype=np.float32)


@kinds
def test_inputs_are_never_changed(opened: Opened, platform: str, kind: str) -> None:
    model, x = opened(platform, kind), numbers(0)

    for _ in range(3):
        model.infer({"x": x})

    np.testing.assert_array_equal(x, numbers(0))


@kinds
def test_read_only_inputs_are_taken(opened: Opened, platform: str, kind: str) -> None:
    model, x = opened(platform, kind), numbers(0)
    x.flags.writeable = False

    result = model.infer({"x": x})["y"]

    np.testing.assert_array_equal(result, EXPECTED[kind](numbers(0)))
    np.testing.assert_array_equal(x, numbers(0))


@kinds
def test_earlier_results_are_never_changed(opened: Opened, platform: str, kind: str) -> None:
    model = opened(platform, kind)

    results = [model.infer({"x": numbers(first)})["y"] for first in range(20)]

    for first, result in enumerate(results):
        np.testing.assert_array_equal(result, EXPECTED[kind](numbers(first)))


@kinds
def test_results_can_be_written_to_without_harm(opened: Opened, platform: str, kind: str) -> None:
    model, x = opened(platform, kind), numbers(0)
    first = model.infer({"x": x})["y"]
    assert first.flags.writeable

    first[:] = -1

    np.testing.assert_array_equal(x, numbers(0))
    np.testing.assert_array_equal(model.infer({"x": x})["y"], EXPECTED[kind](x))


@kinds
def test_results_share_no_memory_with_inputs_or_each_other(opened: Opened, platform: str, kind: str) -> None:
    model, x = opened(platform, kind), numbers(0)

    first, second = (model.infer({"x": x})["y"] for _ in range(2))

    assert not np.shares_memory(first, x)
    assert not np.shares_memory(first, second)


@kinds
def test_results_outlive_the_model(opened: Opened, platform: str, kind: str) -> None:
    model = opened(platform, kind)
    result = model.infer({"x": numbers(0)})["y"]

    model.close()

    np.testing.assert_array_equal(result, EXPECTED[kind](numbers(0)))


@kinds
def test_inputs_may_change_as_soon_as_the_call_is_over(opened: Opened, platform: str, kind: str) -> None:
    model, x = opened(platform, kind), numbers(0)
    result = model.infer({"x": x})["y"]

    x[:] = 99

    np.testing.assert_array_equal(result, EXPECTED[kind](numbers(0)))
