"""Exported programs: how they are packaged, which sizes they take, what they may write, and whose the results are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.export import Dim

from neuropod_core import (
    DType,
    InferenceError,
    ModelLoadError,
    Neuropod,
    PackagingError,
    Problem,
    TensorMismatchError,
    TensorSpec,
    TrustError,
    load_neuropod,
)
from neuropod_torch.export_packagers import create_torch_export_neuropod

ROWS = Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 2]"})
Loaded = Callable[..., Neuropod]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.drop(self.linear(x)))


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Loaded:
    """Package and load; what is loaded is closed after the test."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))

    def load(problem: Problem = ROWS, **arguments: Any) -> Neuropod:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.neuropod"
        create_torch_export_neuropod(neuropod_path=path, model_name="m", problem=problem, **arguments)
        model = load_neuropod(path, trust="code")
        request.addfinalizer(model.close)
        return model

    return load


def module(function: Callable[..., Any]) -> torch.nn.Module:
    """Make a module of a function, with its arguments."""

    def forward(self: torch.nn.Module, *args: torch.Tensor, **inputs: torch.Tensor) -> Any:
        del self
        return function(*args, **inputs)

    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    arguments = inspect.signature(function).parameters.values()
    forward.__signature__ = inspect.Signature([this, *arguments])  # type: ignore[attr-defined]  # read by inspect
    return type("Module", (torch.nn.Module,), {"forward": forward})()


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 100])
def test_example_of_one_row_freezes_nothing(rows: int, loaded: Loaded) -> None:
    net = Net()
    model = loaded(module=net, test_input_data={"x": np.ones((1, 4), np.float32)})
    x = np.random.default_rng(7).normal(size=(rows, 4)).astype(np.float32)

    with torch.no_grad():
        np.testing.assert_allclose(model.infer({"x": x})["y"], net.eval()(torch.from_numpy(x)).numpy(), rtol=1e-6)


def test_module_stays_in_its_mode(loaded: Loaded) -> None:
    net = Net()
    net.drop.eval()

    loaded(module=net)

    assert (net.training, net.linear.training, net.drop.training) == (True, True, False)


@pytest.mark.parametrize("source", ["program", "program_path"])
def test_exported_program_is_packaged(source: str, loaded: Loaded, tmp_path: Path) -> None:
    net = Net().eval()
    program = torch.export.export(net, (torch.ones(3, 4),), dynamic_shapes={"x": {0: Dim.DYNAMIC}})
    file = tmp_path / "given.pt2"
    torch.export.save(program, str(file))

    model = loaded(**{source: program if source == "program" else file})

    with torch.no_grad():
        x = torch.ones(7, 4)
        np.testing.assert_allclose(model.infer({"x": x})["y"], net(x).numpy(), rtol=1e-6)


def test_frozen_program_is_refused_with_the_reason(loaded: Loaded) -> None:
    program = torch.export.export(Net().eval(), (torch.ones(1, 4),))

    with pytest.raises(
        PackagingError, match=r"takes length 1 only, the problem says float32\[N, 4\] - at inputs\.x\[0\]"
    ):
        loaded(program=program)


def test_size_that_the_program_refuses_is_told(loaded: Loaded) -> None:
    problem = Problem.of({"x": "float32[N, M]", "z": "float32[K]"}, {"y": "float32[N, L]"})
    program = torch.export.export(
        module(lambda x, z: x[:, 3:] + z[:1]),
        (),
        {"x": torch.ones(3, 7), "z": torch.ones(5)},
        dynamic_shapes={"x": {0: Dim("n", max=9), 1: Dim.DYNAMIC}, "z": {0: Dim.DYNAMIC}},
    )
    model = loaded(problem, program=program)
    z = np.ones(2, np.float32)

    assert model.infer({"x": np.ones((9, 5), np.float32), "z": z})["y"].shape == (9, 2)
    with pytest.raises(TensorMismatchError, match=r"x\[0\] <= 9, got x\[10, 5\] - at inputs\.x") as raised:
        model.infer({"x": np.ones((10, 5), np.float32), "z": z})
    assert "dynamic_shapes" in str(raised.value)


class Pair(NamedTuple):
    total: torch.Tensor
    extra: torch.Tensor


RETURNED: dict[str, Callable[[torch.Tensor], Any]] = {
    "dictionary": lambda x: {"extra": x * 2, "total": x + 1},
    "named tuple": lambda x: Pair(x + 1, x * 2),
    "tuple": lambda x: (x + 1, x * 2),
    "dictionaries": lambda x: ({"total": x + 1}, {"extra": x * 2}),
}


@pytest.mark.parametrize("returned", RETURNED)
def test_outputs_of_any_form_are_found(returned: str, loaded: Loaded) -> None:
    problem = Problem.of(["x: float32[N]"], ["total: float32[N]", "extra: float32[N]"])
    model = loaded(problem, module=module(RETURNED[returned]))
    x = np.arange(3, dtype=np.float32)

    results = model.infer({"x": x})

    np.testing.assert_array_equal(results["total"], x + 1)
    np.testing.assert_array_equal(results["extra"], x * 2)


def test_arguments_may_be_any(loaded: Loaded) -> None:
    class Any_(torch.nn.Module):  # noqa: N801 - not typing's
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return inputs["b"] - inputs["a"]

    model = loaded(Problem.of(["b: float32[N]", "a: float32[N]"], ["y: float32[N]"]), module=Any_())

    assert model.infer({"a": np.ones(2, np.float32), "b": np.full(2, 5, np.float32)})["y"].tolist() == [4, 4]


def test_inputs_may_be_one_dictionary(loaded: Loaded) -> None:
    class FromDict(torch.nn.Module):
        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return inputs["b"] - inputs["a"]

    model = loaded(Problem.of(["a: float32[N]", "b: float32[N]"], ["y: float32[N]"]), module=FromDict())

    assert model.infer({"a": np.ones(2, np.float32), "b": np.full(2, 5, np.float32)})["y"].tolist() == [4, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_not_copied_on_its_way(dtype: torch.dtype, loaded: Loaded) -> None:
    kind = str(dtype).removeprefix("torch.")
    model = loaded(Problem.of({"x": f"{kind}[N]"}, {"y": f"{kind}[N]"}), module=module(lambda x: x * 2))
    x = torch.linspace(-3, 3, 1000).to(dtype)

    result = model.infer({"x": x}, result="native")["y"]
    array = model.infer({"x": x})["y"]

    assert result.dtype == dtype
    assert torch.equal(result, x * 2)
    assert array.dtype.name == kind
    assert array.base is not None  # A view of the tensor's own memory.
    np.testing.assert_array_equal(array.astype(np.float32), (x * 2).float().numpy())


ALIASES: dict[str, Callable[[torch.Tensor], Any]] = {
    "the input": lambda x: {"a": x, "b": x + 1},
    "a view of it": lambda x: {"a": x[1:], "b": x + 1},
    "one result twice": lambda x: dict.fromkeys("ab", x + 1),
    "a result and its view": lambda x: dict(zip("ab", (x + 1).split(2), strict=True)),
    "an expanded result": lambda x: {"a": x.sum().expand(4), "b": x + 1},
    "overlapping windows": lambda x: {"a": (x + 1).unfold(0, 2, 1).reshape(-1), "b": (x + 1).unfold(0, 2, 1)[:, 0]},
}


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("result", ["numpy", "native"])
def test_results_share_memory_with_nothing(alias: str, result: str, loaded: Loaded) -> None:
    problem = Problem.of(["x: float32[4]"], ["a: float32[A]", "b: float32[B]"])
    model = loaded(problem, module=module(ALIASES[alias]))
    x = np.arange(4, dtype=np.float32)
    expected = {name: value.numpy() for name, value in ALIASES[alias](torch.from_numpy(x.copy())).items()}

    results = {name: np.asarray(value) for name, value in model.infer({"x": x}, result=result).items()}  # type: ignore[call-overload]  # both in turn

    assert not any(np.shares_memory(x, array) for array in results.values())
    assert not np.shares_memory(results["a"], results["b"])
    for name, array in results.items():
        np.testing.assert_array_equal(array, expected[name])
        array[...] = np.arange(array.size, dtype=np.float32) + 50  # Each element has a place of its own.
        np.testing.assert_array_equal(array, np.arange(array.size) + 50)
    np.testing.assert_array_equal(x, np.arange(4))


class Weights(torch.nn.Module):
    """Small enough to run without inference mode, with parameters that ask for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.ones(4))
        self.second = torch.nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x * self.first + self.second, "weight": self.second, "part": self.first[:2]}


@pytest.mark.parametrize("result", ["numpy", "native"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_results_of_small_programs_are_the_callers(mode: Any, result: str, loaded: Loaded) -> None:
    problem = Problem.of({"x": "float32[4]"}, {"sum": "float32[4]", "weight": "float32[4]", "part": "float32[2]"})
    model = loaded(problem, module=Weights())

    for _ in range(2):  # What a caller writes is not what the next call computes with.
        with mode():
            results = model.infer({"x": np.ones(4, np.float32)}, result=result)  # type: ignore[call-overload]  # both in turn
            assert not any(getattr(value, "requires_grad", False) for value in results.values())
            arrays = {name: np.asarray(value) for name, value in results.items()}
        assert {name: array.tolist() for name, array in arrays.items()} == {
            "sum": [3.0] * 4,
            "weight": [2.0] * 4,
            "part": [1.0] * 2,
        }
        for array in arrays.values():
            array[...] = 50


@pytest.mark.parametrize("operators", [1, 5, 6, 7, 30])
def test_mode_that_a_program_runs_in_changes_no_bit(operators: int, loaded: Loaded) -> None:
    class Steps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(operators):
                x = self.linear(x)
            return x

    net = Steps()
    model = loaded(Problem.of({"x": "float32[N, 4]"}, {"y": "float32[N, 4]"}), module=net)
    x = np.random.default_rng(operators).normal(size=(3, 4)).astype(np.float32)

    with torch.inference_mode():
        by_hand = net(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(model.infer({"x": x})["y"], by_hand)


def test_state_is_kept_and_told(loaded: Loaded) -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(1)
            return x + self.count

    model = loaded(Problem.of(["x: float32[1]"], ["y: float32[1]"]), module=Counter())
    x = np.zeros(1, np.float32)

    assert model.stateful
    assert [model.infer({"x": x})["y"].item() for _ in range(3)] == [1, 2, 3]


def test_program_with_branches_runs(loaded: Loaded) -> None:
    def branches(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda one: one * 2, lambda one: one - 1, (x,))

    model = loaded(Problem.of(["x: float32[N]"], ["y: float32[N]"]), module=module(branches))

    assert model.infer({"x": np.ones(3, np.float32)})["y"].tolist() == [2, 2, 2]
    assert model.infer({"x": -np.ones(2, np.float32)})["y"].tolist() == [-2, -2]


def test_left_out_input_is_named(loaded: Loaded) -> None:
    problem = Problem.of(["x: float32[N]", TensorSpec("z", DType.FLOAT32, ("N",), optional=True)], ["y: float32[N]"])
    model = loaded(problem, module=module(lambda x, z: x + z))

    with pytest.raises(InferenceError, match=r"leaves it out - at inputs\.z"):
        model.infer({"x": np.ones(2, np.float32)})


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ({"z": "float32[N, 4]"}, {"y": "float32[N, 2]"}, "takes x.*inputs.z"),
        ({"x": "string[N]"}, {"y": "float32[N, 2]"}, "no strings"),
        ({"x": "float32[N, 4]"}, {"a": "float32[N, 2]", "b": "float32[N]"}, "returns one value.*outputs.a"),
    ],
    ids=["name", "strings", "outputs"],
)
def test_problem_that_does_not_fit_is_refused(inputs: Any, outputs: Any, told: str, loaded: Loaded) -> None:
    with pytest.raises(PackagingError, match=told):
        loaded(Problem.of(inputs, outputs), module=Net())


def test_exactly_one_source_is_asked_for(loaded: Loaded) -> None:
    with pytest.raises(PackagingError, match="exactly one of module, program, program_path is packaged, got none"):
        loaded()


def test_less_trust_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    loaded(module=Net())
    (path,) = tmp_path.glob("*.neuropod")

    with pytest.raises(TrustError):
        load_neuropod(path)


def test_program_of_another_problem_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    from neuropod_core.testing import fake_package

    file = tmp_path / "given.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(3, 4),)), str(file))
    other = Problem.of({"x": "float32[3, 5]"}, {"y": "float32[3, 2]"})
    package = fake_package(tmp_path / "fake", "torch_export", other, {"data/model.pt2": file.read_bytes()})

    with pytest.raises(ModelLoadError, match=r"takes float32\[3, 4\], the problem says float32\[3, 5\]"):
        load_neuropod(package, trust="code")
