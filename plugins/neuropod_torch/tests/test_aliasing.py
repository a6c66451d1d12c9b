"""No module, however it is written, changes the caller's arrays or results that it gave before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

# Bodies of `forward(self, x: Tensor)` for x: float32[3, 4]; `y` is what they return.
PURE = {
    "identity": "return x",
    "linear": "return self.linear(x)",
    "relu": "return torch.relu(x)",
    "neutral_mul": "return x * 1",
    "neutral_add": "return x + 0",
    "neutral_sub": "return x - 0.0",
    "neutral_div": "return x / 1",
    "neutral_pow": "return torch.pow(x, 1)",
    "no_op_clamp": "return torch.clamp(x, -1e30, 1e30)",
    "no_op_to": "return x.to(torch.float32)",
    "to_copy": "return x.to(torch.float32, copy=True)",
    "type_as": "return x.type_as(self.weight)",
    "float": "return x.float()",
    "contiguous": "return x.contiguous()",
    "detach": "return x.detach()",
    "alias_data": "return x.data",
    "clone": "return x.clone()",
    "transpose": "return x.t()",
    "view": "return x.view(4, 3)",
    "reshape": "return x.reshape(-1)",
    "flatten": "return torch.flatten(x)",
    "unsqueeze_squeeze": "return x.unsqueeze(0).squeeze(0)",
    "slice": "return x[1:, ::2]",
    "select": "return x[1]",
    "narrow": "return x.narrow(0, 0, 2)",
    "diagonal": "return torch.diagonal(x)",
    "as_strided": "return torch.as_strided(x, [2, 2], [1, 2])",
    "unfold": "return x.unfold(0, 2, 1)",
    "expand": "return x[:1].expand(3, 4)",
    "expand_as": "return x[:1].expand_as(self.weight)",
    "chunk": "return torch.chunk(x, 2)[0]",
    "split": "a, b = torch.split(x, [1, 2])\n    return b",
    "unbind": "return torch.unbind(x)[1]",
    "real": "return torch.real(x)",
    "negative_bit": "return torch.imag(torch.conj(torch.complex(x, x)))",
    "resolve_neg": "return torch.resolve_neg(x)",
    "positive": "return torch.positive(x)",
    "dropout": "return self.drop(x)",
    "dropout_functional": "return torch.dropout(x, 0.5, False)",
    "feature_dropout": "return torch.feature_dropout(x, 0.5, False)",
    "alpha_dropout": "return torch.alpha_dropout(x, 0.5, False)",
    "sum_to_size": "return x.sum_to_size([3, 4])",
    "einsum_identity": "return torch.einsum('ij->ij', x)",
    "einsum_transpose": "return torch.einsum('ij->ji', x)",
    "broadcast_tensors": "return torch.broadcast_tensors([x, x])[0]",
    "meshgrid": "return torch.meshgrid([x[0], x[1]], indexing='ij')[0]",
    "cartesian_prod": "return torch.cartesian_prod([x[0]])",
    "atleast": "return torch.atleast_2d(x)",
    "nested_list": "l = [[x], [x + 1]]\n    return l[0][0]",
    "list_of_sums": "l = [x] + [x * 2]\n    return l[0]",
    "list_repeated": "l = [x] * 2\n    return l[1]",
    "list_append": "l = [x]\n    l.append(x + 1)\n    return l[0]",
    "list_in_loop": "l: List[Tensor] = []\n    for i in range(2):\n        l.append(x)\n    return l[1]",
    "list_pop": "l = [x * 2, x]\n    return l.pop()",
    "list_extend": "l = [x * 2]\n    l.extend([x])\n    return l[1]",
    "list_slice": "l = [x * 2, x]\n    return l[1:][0]",
    "dict_item": "d = {'a': x, 'b': x * 2}\n    return d['a']",
    "dict_assigned": "d = {'b': x * 2}\n    d['a'] = x\n    return d['a']",
    "dict_values": "d = {'a': x}\n    return list(d.values())[0]",
    "tuple_item": "t = (x * 2, x)\n    return t[1]",
    "if_either": "if bool(x.sum() > -1e9):\n        y = x\n    else:\n        y = x * 2\n    return y",
    "if_other": "if bool(x.sum() < -1e9):\n        y = x\n    else:\n        y = x * 2\n    return y",
    "loop_none": "y = x\n    for i in range(x.size(0) - 3):\n        y = y * 2\n    return y",
    "loop_some": "y = x\n    for i in range(x.size(0)):\n        y = y * 2\n    return y",
    "while": "y = x\n    while bool(y.sum() < -1e9):\n        y = y + 100\n    return y",
    "loop_state": "h = torch.zeros(4)\n    for i in range(x.size(0)):\n        h = torch.tanh(x[i] + h)\n    return h",
    "optional": "o: Optional[Tensor] = None\n    if x.dim() > 0:\n        o = x\n    return x * 2 if o is None else o",
    "weight": "return self.weight",
    "buffer_view": "return self.buffer[1:]",
    "buffer_or_input": "return x if x.size(0) > 9 else self.buffer",
    "table": "return self.table['t']",
    "constant_ones": "return torch.ones(3, 4)",
    "constant_of_shape": "return torch.zeros(x.size(0), 4)",
    "constant_zeros_like": "return torch.zeros_like(x)",
    "constant_list": "return torch.tensor([1.0, 2.0])",
    "constant_arithmetic": "return self.weight * 2 + self.buffer",
    "constant_loop": "y = torch.ones(4)\n    for i in range(3):\n        y = y * 2\n    return y",
    "constant_relu": "return torch.relu(self.buffer)",
    "filled_zeros": "y = torch.zeros(3, 4)\n    y[1] = x[0]\n    return y",
    "filled_empty": "y = torch.empty_like(x)\n    y.copy_(x)\n    return y",
    "index_put": "y = torch.zeros(3, 4)\n    y[torch.tensor([0, 2])] = 5.0\n    return y + x",
    "in_place_on_new": "y = x * 2\n    y.add_(1)\n    return y",
    "in_place_on_view_of_new": "y = x * 2\n    y[0].zero_()\n    return y",
    "in_place_relu_after_norm": "return torch.relu_(self.drop(self.norm(x)))",
    "norm": "return self.norm(x)",
    "lstm": "y, h = self.lstm(x.unsqueeze(1))\n    return y",
    "lstm_state": "y, h = self.lstm(x.unsqueeze(1))\n    return h[0]",
    "cat_one": "return torch.cat([x])",
    "cat_some": "return torch.cat([x, self.weight])",
    "cat_empty": "return torch.cat([x, torch.zeros(0)])",
    "stack_one": "return torch.stack([x])",
    "where": "return torch.where(x > -1e9, x, x)",
    "max_full": "return torch.max(x)",
    "topk": "return torch.topk(x, 2)[0]",
    "sort": "return torch.sort(x)[0]",
    "sum_no_dim": "return torch.sum(x[0, 0])",
    "mean": "return x.mean(1)",
    "softmax": "return torch.softmax(x, 1)",
    "round": "return torch.round(x)",
    "matmul": "return x @ self.weight",
    "matmul_vector": "return x[0] @ x[1]",
    "embedding": "return torch.embedding(self.weight, torch.tensor([1, 2]))",
    "index_select": "return torch.index_select(x, 0, torch.tensor([0, 1]))",
    "masked_fill": "return x.masked_fill(x > 1e9, 0.0)",
    "no_grad": "with torch.no_grad():\n        y = x\n    return y",
    "dropped_by_torch_itself": "self.drop(self.buffer).add_(1)\n    return x + self.buffer",
    "through_identity": "return self.unseen(x)",
}

WRITING = {
    "add": "x.add_(1)\n    return x * 2",
    "add_returned": "return x.add_(1)",
    "augmented": "x += 1\n    return x",
    "item": "x[0, 0] = 9.0\n    return x + 1",
    "slice": "x[1:] = 0.0\n    return x + 1",
    "mask": "x[x > 0] = -1.0\n    return x + 1",
    "view": "x.view(-1).zero_()\n    return x + 1",
    "transpose": "x.t().mul_(2)\n    return x + 1",
    "expand": "x[0].expand(1, 4).add_(1)\n    return x + 1",
    "chunk": "torch.chunk(x, 2)[0].add_(1)\n    return x + 1",
    "unbind": "for row in torch.unbind(x):\n        row.add_(1)\n    return x + 1",
    "detach": "x.detach().add_(1)\n    return x + 1",
    "data": "x.data.add_(1)\n    return x + 1",
    "diagonal": "torch.diagonal(x).fill_(0)\n    return x + 1",
    "as_strided": "torch.as_strided(x, [4], [1]).fill_(3)\n    return x + 1",
    "dropout": "self.drop(x).add_(1)\n    return x + 1",
    "dropout_in_place": "return self.drop_in_place(x).add_(1)",
    "contiguous": "x.contiguous().add_(1)\n    return x + 1",
    "type_as": "x.type_as(self.weight).add_(1)\n    return x + 1",
    "einsum": "torch.einsum('ij->ji', x).add_(1)\n    return x + 1",
    "broadcast": "torch.broadcast_tensors([x, x])[0].add_(1)\n    return x + 1",
    "meshgrid": "torch.meshgrid([x[0], x[1]], indexing='ij')[0][0, 0] = 5.0\n    return x + 1",
    "sum_to_size": "x.sum_to_size([3, 4]).add_(1)\n    return x + 1",
    "out": "torch.add(x, 1, out=x)\n    return x + 1",
    "out_of_view": "torch.mul(x[0], 2, out=x[1])\n    return x + 1",
    "returned_out": "y = torch.relu(x)\n    return torch.add(y, 1, out=x)",
    "sort_list": "l = [x]\n    l[0].add_(1)\n    return x + 1",
    "list_appended": "l: List[Tensor] = []\n    l.append(x)\n    l[0].add_(1)\n    return x + 1",
    "list_sum": "l = [torch.ones(1)] + [x]\n    l[1].add_(1)\n    return x + 1",
    "dict": "d = {'a': x}\n    d['a'].add_(1)\n    return x + 1",
    "tuple": "t = (x, 1)\n    t[0].add_(1)\n    return x + 1",
    "branch": "y = x if x.size(0) > 0 else x * 2\n    y.add_(1)\n    return y + 1",
    "loop": "y = x\n    for i in range(2):\n        y.add_(1)\n    return y + 1",
    "loop_carried": "y = torch.zeros(3, 4)\n    for i in range(2):\n        y.add_(1)\n        y = x\n    return y + 1",
    "optional": "o: Optional[Tensor] = x\n    if o is not None:\n        o.add_(1)\n    return x + 1",
    "relu": "return torch.nn.functional.relu(x, inplace=True) + 1",
    "batch_norm_as_statistics": "torch.batch_norm(torch.ones(2, 4), None, None, x[0], x[1], True, 0.5, 1e-5, False)\n"
    "    return x + 1",
    "set": "y = torch.zeros(3, 4)\n    y.set_(x)\n    y.add_(1)\n    return y",
    "resize": "x.resize_(2, 2)\n    return x + 1",
    "uniform": "x.uniform_(0.0, 0.0)\n    return x + 1",
    "copy": "x.copy_(self.weight[:3])\n    return x + 1",
    "swap": "y = x\n    x = x * 2\n    y.add_(1)\n    return x",
}

STATEFUL = {
    "counts": "self.calls += 1\n    return x + self.calls",
    "adds_to_buffer": "self.buffer += 1\n    return x + self.buffer",
    "returns_buffer": "self.buffer.add_(1)\n    return self.buffer",
    "returns_view_of_buffer": "self.buffer.add_(1)\n    return self.buffer.view(2, 2)[1]",
    "adds_to_weight": "self.weight.mul_(2)\n    return x @ self.weight",
    "adds_through_view": "self.weight[0].add_(1)\n    return x + self.weight[0]",
    "keeps_input": "y = self.kept + 0\n    self.kept = x\n    return y",
    "keeps_input_and_returns_last": "y = self.kept\n    self.kept = x\n    return y",
    "keeps_view_of_input": "y = self.kept[0] + 0\n    self.kept = x.t()\n    return y",
    "keeps_output": "y = self.linear(x)\n    self.kept = y\n    return y",
    "writes_last_output": "self.kept.add_(1)\n    self.kept = x * 2\n    return self.kept",
    "writes_last_output_through_view": "self.kept[0].zero_()\n    y = x * 2\n    self.kept = y\n    return y.t()",
    "appends": "self.history.append(x)\n    return self.history[0] + 0",
    "appends_output": "y = x * 2\n    self.history.append(y)\n    self.history[0].add_(1)\n    return y",
    "appends_and_returns_first": "self.history.append(x)\n    return self.history[0]",
    "inner_list": "self.sizes[0].append(1)\n    return x + len(self.sizes[0])",
    "table": "self.table['t'] = self.table['t'] + x\n    return self.table['t']",
    "table_in_place": "self.table['t'].add_(x)\n    return self.table['t']",
    "alias_of_attribute": "k = self.kept\n    k.add_(1)\n    return k + x",
    "attribute_in_list": "l = [self.kept]\n    l[0].add_(1)\n    return self.kept + x",
    "attribute_in_branch": "k = self.kept if x.size(0) > 0 else x * 2\n    k.add_(1)\n    return self.kept * 2",
    "batch_statistics": "torch.batch_norm(x, None, None, self.buffer, self.weight[0], True, 0.5, 1e-5, False)\n"
    "    return x + self.buffer",
    "out_buffer": "torch.add(x[0], 1, out=self.buffer)\n    return self.buffer",
    "swaps_buffers": "y = self.kept\n    self.kept = self.table['t']\n    self.table['t'] = y\n    return y",
}


def forward(body: str) -> str:
    return f"def forward(self, x: Tensor):\n    {body}\n"


def case(bodies: dict[str, str]) -> Any:
    return pytest.mark.parametrize("body", bodies.values(), ids=bodies)


def fresh_input(step: int) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4) + np.float32(step)
    return made


def results(module: Any, steps: int) -> list[np.ndarray[Any, Any]]:
    """Run a module by hand, with tensors that nobody shares."""
    with torch.no_grad():
        return [module(torch.from_numpy(fresh_input(step))).clone().resolve_neg().numpy() for step in range(steps)]


def check(executor: Any, expected: list[np.ndarray[Any, Any]]) -> None:
    """Scribble over every array as soon as the call is done: nobody may notice."""
    earlier: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for step, wanted in enumerate(expected):
        x = fresh_input(step)
        before = x.copy()

        got = executor.infer({"x": x})["y"]

        np.testing.assert_array_equal(x, before, "the input was written")
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        assert not np.shares_memory(got, x), "the result is the input"
        for kept, content in earlier:
            assert not np.shares_memory(got, kept), "the result is an earlier one"
            np.testing.assert_array_equal(kept, content, "an earlier result was written")
        assert got.flags.writeable
        got[...] = -77.0
        x[...] = 55.0
        earlier.append((got, got.copy()))


@case(PURE)
def test_pure_module_keeps_apart_from_the_caller(body: str, saved: Any, by_hand: Any, opened: Any) -> None:
    frozen, unfrozen, expected = both(body, saved, by_hand, opened)

    assert not frozen.stateful
    assert frozen.thread_safe
    check(frozen, expected)
    check(unfrozen, expected)


@case(WRITING)
def test_writing_module_gets_copies(body: str, saved: Any, by_hand: Any, opened: Any) -> None:
    frozen, unfrozen, expected = both(body, saved, by_hand, opened)

    check(frozen, expected)
    check(unfrozen, expected)


@case(STATEFUL)
def test_stateful_module_keeps_its_state_to_itself(body: str, saved: Any, by_hand: Any, opened: Any) -> None:
    frozen, unfrozen, expected = both(body, saved, by_hand, opened)

    assert frozen.stateful
    assert not frozen.thread_safe
    check(frozen, expected)
    check(unfrozen, expected)


PAIRS = {
    "twice": "y = torch.relu(x)\n    return (y, y)",
    "view_and_whole": "y = torch.relu(x)\n    return (y, y[1:])",
    "equal_expressions": "return (torch.relu(x), torch.relu(x))",
    "input_and_new": "return (x, x * 2)",
    "input_twice": "return (x, x.t())",
    "chunks": "a, b = torch.chunk(x * 2, 2, 1)\n    return (a, b)",
    "both_of_lstm": "y, h = self.lstm(x.unsqueeze(1))\n    return (y, h[0])",
    "values_and_indices": "a, b = torch.topk(x, 2)\n    return (a, b.float())",
    "in_place_later": "y = torch.relu(x)\n    z = y.t()\n    z.add_(1)\n    return (y, z)",
    "branch": "y = torch.relu(x)\n    z = y if x.size(0) > 0 else x\n    return (y, z)",
}


@case(PAIRS)
def test_results_of_one_call_share_nothing_with_each_other(body: str, saved: Any, by_hand: Any, opened: Any) -> None:
    lines = body.replace("return (", "pair = (") + "\n    return {'a': pair[0], 'b': pair[1]}"
    folder = saved(f"def forward(self, x: Tensor) -> Dict[str, Tensor]:\n    {lines}\n")
    executor = opened(folder, ["x: float32[3, 4]"], {"a": "float32[?, ?]", "b": "float32[?, ?]"})
    for step in range(4):
        x = fresh_input(step)
        with torch.no_grad():
            wanted = {name: value.clone() for name, value in by_hand(folder)(torch.from_numpy(x.copy())).items()}

        got = executor.infer({"x": x})

        for name in ("a", "b"):
            np.testing.assert_allclose(got[name], wanted[name].numpy(), rtol=1e-6)
            assert not np.shares_memory(got[name], x)
        assert not np.shares_memory(got["a"], got["b"])


PROVEN = ("linear", "relu", "norm", "in_place_relu_after_norm", "matmul", "softmax", "mean", "cat_some", "topk")


@pytest.mark.parametrize("name", PROVEN)
def test_ordinary_modules_pay_nothing(name: str, opened: Any) -> None:
    executor = opened(forward(PURE[name]), ["x: float32[3, 4]"], {"y": "float32[...]".replace("...", "?")})

    assert executor.description["outputs_copied"] == []
    assert executor.description["inputs_copied"] is False


def both(body: str, saved: Any, by_hand: Any, opened: Any) -> tuple[Any, Any, list[np.ndarray[Any, Any]]]:
    """Open one module with and without freezing, and say what it gives by hand."""
    folder = saved(forward(body))
    expected = results(by_hand(folder), 5)
    specs = (["x: float32[3, 4]"], {"y": f"float32[{', '.join('?' for _ in expected[0].shape)}]"})
    return opened(folder, *specs), opened(folder, *specs, freeze=False), expected
