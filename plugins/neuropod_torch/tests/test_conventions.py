"""How a module may take its inputs and give its outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from neuropod_core.errors import InferenceError, ModelLoadError
from neuropod_core.problem import Problem, TensorSpec

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.full((2, 3), 10, np.float32)
TEXTS = np.array(["a", "", "日本"], object)


class Pair(NamedTuple):
    sum: torch.Tensor
    names: list[str]


class ReturnsNamedTuple(torch.nn.Module):
    def forward(self, x: torch.Tensor, names: list[str]) -> Pair:
        return Pair(sum=x + 1, names=names + ["b"])  # noqa: RUF005 - TorchScript has no unpacking


SUMS = {
    "dict": "def forward(self, x: Tensor, y: Tensor):\n    return {'sum': x + y, 'difference': x - y}\n",
    "other order": "def forward(self, y: Tensor, x: Tensor):\n    return {'difference': x - y, 'sum': x + y}\n",
    "dict argument": "def forward(self, d: Dict[str, Tensor]):\n"
    "    return {'sum': d['x'] + d['y'], 'difference': d['x'] - d['y']}\n",
    "tuple of dicts": "def forward(self, x: Tensor, y: Tensor):\n    return {'sum': x + y}, {'difference': x - y}\n",
    "filled dict": "def forward(self, x: Tensor, y: Tensor):\n    r: Dict[str, Tensor] = {}\n"
    "    r['sum'] = x + y\n    r['difference'] = x - y\n    return r\n",
    "dict in a loop": "def forward(self, x: Tensor, y: Tensor):\n    r: Dict[str, Tensor] = {}\n"
    "    for name in ['sum', 'difference']:\n        r[name] = x + y if name == 'sum' else x - y\n    return r\n",
    "dict of a branch": "def forward(self, x: Tensor, y: Tensor):\n    if x.size(0) > 9:\n"
    "        return {'sum': x + y}\n    else:\n        return {'sum': x + y, 'difference': x - y}\n",
    "more outputs": "def forward(self, x: Tensor, y: Tensor):\n"
    "    return {'sum': x + y, 'difference': x - y, 'more': x}\n",
    "more arguments": "def forward(self, x: Tensor, y: Tensor, factor: float = 1.0, z: Optional[Tensor] = None):\n"
    "    return {'sum': x + y * factor, 'difference': x - y}\n",
    "argument of None": "def forward(self, x: Tensor, y: Optional[Tensor]):\n    assert y is not None\n"
    "    return {'sum': x + y, 'difference': x - y}\n",
    "dict of any": "def forward(self, d: Dict[str, Union[Tensor, List[str]]]):\n    x = d['x']\n    y = d['y']\n"
    "    assert isinstance(x, Tensor)\n    assert isinstance(y, Tensor)\n"
    "    return {'sum': x + y, 'difference': x - y}\n",
}


@pytest.mark.parametrize("source", SUMS.values(), ids=SUMS)
def test_every_convention_gives_the_same(source: str, opened: Any) -> None:
    executor = opened(
        source, ["x: float32[N, M]", "y: float32[N, M]"], ["sum: float32[N, M]", "difference: float32[N, M]"]
    )

    for _ in range(3):
        results = executor.infer({"x": X, "y": Y})

        assert set(results) - {"more"} == {"sum", "difference"}
        np.testing.assert_array_equal(results["sum"], X + Y)
        np.testing.assert_array_equal(results["difference"], X - Y)


def test_named_tuple_gives_its_fields(opened: Any, announced: Any) -> None:
    with announced():
        module = torch.jit.script(ReturnsNamedTuple())
    executor = opened(module, ["x: float32[N, M]", "names: string[K]"], ["sum: float32[N, M]", "names: string[?]"])

    results = executor.infer({"x": X, "names": TEXTS})

    np.testing.assert_array_equal(results["sum"], X + 1)
    assert results["names"].tolist() == ["a", "", "日本", "b"]


@pytest.mark.parametrize(
    "source",
    [
        "def forward(self, d: Dict[str, List[str]]):\n    return {'b': d['a'] + ['é']}\n",
        "def forward(self, a: List[str]):\n    return a + ['é']\n",
        "def forward(self, a: Optional[List[str]]):\n    assert a is not None\n    return {'b': a + ['é']}\n",
    ],
    ids=["dict", "list", "optional"],
)
def test_texts_go_in_and_out(source: str, opened: Any) -> None:
    executor = opened(source, ["a: string[N]"], ["b: string[?]"])

    for given in (TEXTS, np.array([], object), TEXTS[::-1]):
        result = executor.infer({"a": given})["b"]

        assert result.dtype == object
        assert result.tolist() == [*given.tolist(), "é"]


def test_texts_and_tensors_share_a_dict(opened: Any) -> None:
    source = """def forward(self, d: Dict[str, Union[Tensor, List[str]]]):
    x = d['x']
    a = d['a']
    assert isinstance(x, Tensor)
    assert isinstance(a, List[str])
    r: Dict[str, Union[Tensor, List[str]]] = {}
    r['y'] = x * 2
    r['b'] = a
    return r
"""
    executor = opened(source, ["x: float32[N, M]", "a: string[K]"], ["y: float32[N, M]", "b: string[K]"])

    results = executor.infer({"x": X, "a": TEXTS})

    np.testing.assert_array_equal(results["y"], X * 2)
    assert results["b"].tolist() == TEXTS.tolist()


def test_names_need_not_be_identifiers_in_a_dict(opened: Any) -> None:
    names = ["image/encoded:0", "it's", 'a "name"', "back\\slash", "日本", "{0}"]
    source = (
        "def forward(self, d: Dict[str, Tensor]):\n    r: Dict[str, Tensor] = {}\n"
        "    for k, v in d.items():\n        r[k] = v + 1\n    return r\n"
    )
    executor = opened(source, dict.fromkeys(names, "float32[N, M]"), dict.fromkeys(names, "float32[N, M]"))

    results = executor.infer({name: X + index for index, name in enumerate(names)})

    for index, name in enumerate(names):
        np.testing.assert_array_equal(results[name], X + index + 1)


def test_names_are_never_read_as_code(opened: Any) -> None:
    name = "x'] = 0\n    raise"
    with pytest.raises(Exception, match="printable"):
        opened("def forward(self, d: Dict[str, Tensor]):\n    return d\n", {name: "float32[N]"}, {name: "float32[N]"})


def test_nothing_that_no_output_needs_is_computed(opened: Any) -> None:
    source = "def forward(self, x: Tensor):\n    return {'y': x * 2, 'unneeded': torch.inverse(x[:2, :2] * 0)}\n"
    executor = opened(source, ["x: float32[N, M]"], ["y: float32[N, M]"])

    np.testing.assert_array_equal(executor.infer({"x": X})["y"], X * 2)


def optional(name: str) -> TensorSpec:
    return TensorSpec(name, "float32", ("N", "M"), optional=True)


@pytest.mark.parametrize(
    "source",
    [
        "def forward(self, x: Tensor, y: Optional[Tensor] = None):\n    return x if y is None else x + y\n",
        "def forward(self, x: Tensor, y: Optional[Tensor]):\n    return x if y is None else x + y\n",
        "def forward(self, d: Dict[str, Tensor]):\n    return d['x'] + d['y'] if 'y' in d else d['x']\n",
    ],
    ids=["default", "no default", "dict"],
)
def test_optional_input_may_be_left_out(source: str, opened: Any) -> None:
    executor = opened(source, ["x: float32[N, M]", optional("y")], ["z: float32[N, M]"])

    for _ in range(3):
        np.testing.assert_array_equal(executor.infer({"x": X})["z"], X)
        np.testing.assert_array_equal(executor.infer({"x": X, "y": Y})["z"], X + Y)


def test_input_that_the_module_needs_is_named_when_it_is_missing(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor, y: Tensor):\n    return x + y\n",
        ["x: float32[N, M]", optional("y")],
        ["z: float32[N, M]"],
    )

    with pytest.raises(InferenceError, match=r"needs this input, and the call leaves it out - at inputs\.y; pass it"):
        executor.infer({"x": X})


def test_optional_output_may_be_none(opened: Any) -> None:
    source = "def forward(self, x: Tensor):\n    return {'y': x + 1, 'z': None if x.size(0) > 1 else x}\n"
    source = source.replace("):", ") -> Dict[str, Optional[Tensor]]:", 1)
    executor = opened(source, ["x: float32[N, M]"], ["y: float32[N, M]", optional("z")])

    assert set(executor.infer({"x": X})) == {"y"}
    assert set(executor.infer({"x": X[:1]})) == {"y", "z"}


@pytest.mark.parametrize("when", ["always", "sometimes"])
def test_output_returned_twice_is_an_error(when: str, opened: Any) -> None:
    second = "{'y': x}" if when == "always" else "{'y': x} if x.size(0) > 0 else {'z': x}"
    executor = opened(
        f"def forward(self, x: Tensor):\n    return {{'y': x}}, {second}\n", ["x: float32[N, M]"], ["y: float32[N, M]"]
    )

    with pytest.raises(InferenceError, match=r"two of the dictionaries of one tuple - at outputs\.y"):
        executor.infer({"x": X})


MISFITS = {
    "no such argument": ("x: Tensor", "x", ["q: float32[N]"], ["y: float32[N]"], r"takes x - at .*inputs\.q"),
    "one argument more": (
        "x: Tensor, w: Tensor",
        "x",
        ["x: float32[N]"],
        ["y: float32[N]"],
        "needs 'w', which is no input",
    ),
    "text for a tensor": (
        "x: Tensor",
        "x",
        ["x: string[N]"],
        ["y: float32[N]"],
        r"takes Tensor, the problem says string\[N\]",
    ),
    "tensor for a text": (
        "x: List[str]",
        "x",
        ["x: float32[N]"],
        ["y: string[N]"],
        r"takes List\[str\], the problem says float32",
    ),
    "list of tensors": ("x: List[Tensor]", "x[0]", ["x: float32[N]"], ["y: float32[N]"], r"takes List\[Tensor\]"),
    "number": ("x: float", "torch.tensor(x)", ["x: float32[]"], ["y: float32[]"], "takes float"),
    "text of two dimensions": (
        "x: List[str]",
        "x",
        ["x: string[N, M]"],
        ["y: string[N]"],
        "of one dimension, the problem says",
    ),
    "tuple": ("x: Tensor", "(x, x)", ["x: float32[N]"], ["y: float32[N]", "z: float32[N]"], "returns Tuple"),
    "two outputs": (
        "x: Tensor",
        "x",
        ["x: float32[N]"],
        ["y: float32[N]", "z: float32[N]"],
        "returns Tensor, the problem has 2",
    ),
    "list in a dict": ("x: Tensor", "{'y': [x]}", ["x: float32[N]"], ["y: float32[N]"], r"returns Dict\[str, List"),
    "number in a dict": ("x: Tensor", "{'y': 1}", ["x: float32[N]"], ["y: float32[N]"], r"returns Dict\[str, int\]"),
    "number returned": ("x: Tensor", "1", ["x: float32[N]"], ["y: float32[N]"], "returns int"),
}


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_module_that_does_not_fit_the_problem_is_refused_at_load(misfit: Any, opened: Any) -> None:
    arguments, returned, inputs, outputs, message = misfit

    with pytest.raises(ModelLoadError, match=message):
        opened(f"def forward(self, {arguments}):\n    return {returned}\n", inputs, outputs)


def test_missing_output_is_left_to_the_checks(opened: Any) -> None:
    executor = opened(
        "def forward(self, x: Tensor):\n    return {'other': x}\n", ["x: float32[N, M]"], ["y: float32[N, M]"]
    )

    assert "y" not in executor.infer({"x": X})


def test_problem_without_inputs_runs(opened: Any) -> None:
    executor = opened(
        "def forward(self):\n    return torch.ones(2)\n", Problem.of([], ["y: float32[2]"]).inputs, ["y: float32[2]"]
    )

    assert executor.infer({})["y"].tolist() == [1, 1]
