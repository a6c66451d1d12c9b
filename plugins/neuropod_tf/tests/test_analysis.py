"""What is read off a graph before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from neuropod_tf._analysis import Traits, reached

v1 = tf.compat.v1


def _graph(build: Callable[[Any], Any]) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def _traits(build: Callable[[Any], Any]) -> Traits:
    return Traits(_graph(build), ["y:0"], ["x:0"])


def _variable() -> Any:
    return v1.get_variable("v", initializer=[0.0] * 4, use_resource=True)


def _reference() -> Any:
    return v1.get_variable("v", initializer=[0.0] * 4, use_resource=False)


def _table(x: Any) -> Any:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1.0], [2.0]), 0.0)
    return table.lookup(x)


def _growing_table(x: Any) -> Any:
    table = tf.lookup.experimental.DenseHashTable(tf.float32, tf.float32, 0.0, empty_key=-1.0, deleted_key=-2.0)
    with tf.control_dependencies([table.insert(x, x)]):
        return table.lookup(x)


def _queued(x: Any) -> Any:
    queue = v1.FIFOQueue(1, tf.float32)
    with tf.control_dependencies([queue.enqueue(x)]):
        return queue.dequeue()


_STATELESS = {
    "pure": lambda x: x + 1.0,
    "variable": lambda x: x + _variable(),
    "reference": lambda x: x + _reference(),
    "table": _table,
    "random": lambda x: x + tf.random.uniform([4]),
    "function": tf.function(lambda x: x * 2.0),
    "branches": lambda x: tf.cond(x[0] > 0, lambda: x, lambda: -x),
    "loop": lambda x: tf.while_loop(lambda i: i[0] < 9.0, lambda i: (i + 1.0,), [x])[0],
    "loop over rows": lambda x: tf.map_fn(lambda one: one + 1.0, x),
    "check": lambda x: tf.debugging.check_numerics(x, "bad"),
}
_STATEFUL = {
    "assigned": lambda x: _variable().assign_add(x, read_value=True),
    "assigned reference": lambda x: v1.assign_add(_reference(), x),
    "assigned in a function": lambda x: tf.function(lambda v, z: v.assign_add(z).read_value())(_variable(), x),
    "assigned in a branch": lambda x: tf.cond(
        x[0] > 0, lambda v=None: _variable().assign(x, read_value=True), lambda: x
    ),
    "scattered": lambda x: _variable().scatter_nd_update([[0]], x[:1]).read_value(),
    "growing table": _growing_table,
    "queue": _queued,
    "Python": lambda x: tf.py_function(lambda z: z, [x], tf.float32),
    "generator": lambda x: x + tf.random.Generator.from_seed(1).uniform([4]),
}


@pytest.mark.parametrize("kind", _STATELESS)
def test_graphs_that_keep_nothing_are_told_so(kind: str) -> None:
    assert not _traits(_STATELESS[kind]).keeps_state


@pytest.mark.parametrize("kind", _STATEFUL)
def test_graphs_that_keep_state_are_told_so(kind: str) -> None:
    assert _traits(_STATEFUL[kind]).keeps_state


def test_an_unknown_operation_is_taken_to_keep_state() -> None:
    graph_def = _graph(lambda x: x + 1.0)
    next(node for node in graph_def.node if node.op.startswith("Add")).op = "SomebodysOwnOp"

    assert Traits(graph_def, ["y:0"], ["x:0"]).keeps_state


def test_only_what_the_outputs_need_is_looked_at() -> None:
    graph_def = _graph(lambda x: [x + 1.0, _variable().assign(x)][0])

    assert not Traits(graph_def, ["y:0"], ["x:0"]).keeps_state
    assert {node.name for node in reached(graph_def, ["y"], ["x:0"])} >= {"y", "add"}
    assert not reached(graph_def, ["y:0"], ["y:0"])


def test_writing_in_place_is_seen_inside_of_functions() -> None:
    inner = tf.function(lambda x: tf.raw_ops.InplaceUpdate(x=x, i=[0], v=x[:1]))

    assert _traits(inner).writes_in_place
    assert not _traits(lambda x: tf.tensor_scatter_nd_update(x, [[0]], x[:1])).writes_in_place


@pytest.mark.parametrize(
    ("build", "chain"),
    [
        (lambda x: tf.tanh(tf.sin(x)), True),
        (lambda x: tf.tanh(tf.reshape(tf.sin(x), tf.shape(x))), True),
        (lambda x: tf.tanh(x) + tf.sin(x), False),
        (lambda x: tf.sin(x) + x, True),
        (tf.function(lambda x: tf.tanh(tf.sin(x))), True),
        (tf.function(lambda x: tf.tanh(x) + tf.sin(x)), False),
        (lambda x: tf.tanh(tf.function(tf.sin)(x)), True),
        (lambda x: tf.function(tf.tanh)(x) + tf.function(tf.sin)(x), False),
        (lambda x: tf.cond(x[0] > 0, lambda: tf.sin(x) + tf.tanh(x), lambda: x), False),
    ],
    ids=[
        "chain",
        "shapes",
        "fork",
        "shortcut",
        "in a function",
        "fork in a function",
        "of functions",
        "fork of functions",
        "branch",
    ],
)
def test_a_chain_is_told_from_a_fork(build: Any, chain: bool) -> None:
    assert _traits(build).is_chain is chain


@pytest.mark.parametrize("called", [False, True], ids=["in the graph", "in a function"])
def test_what_is_made_of_variables_alone_does_not_count(called: bool) -> None:
    kernel = tf.Variable(tf.ones([4, 4]))

    def layers(x: Any) -> Any:
        for _ in range(3):
            x = tf.tanh(x[None] @ tf.transpose(kernel))[0]
        return x

    function = tf.function(layers).get_concrete_function(tf.TensorSpec([4], tf.float32))
    graph = function.graph.as_graph_def()
    fetch, feed = function.outputs[0].name, function.inputs[0].name
    if called:
        outer = tf.function(lambda x: function(x)).get_concrete_function(tf.TensorSpec([4], tf.float32))  # noqa: PLW0108
        graph, fetch, feed = outer.graph.as_graph_def(), outer.outputs[0].name, outer.inputs[0].name
    resources = [node.name for node in graph.node if node.op == "Placeholder" and node.attr["dtype"].type == 20]
    for node in graph.node:
        if node.name in resources:
            node.op = "VarHandleOp"

    assert Traits(graph, [fetch], [feed]).is_chain


def test_random_numbers_count_though_nothing_feeds_them() -> None:
    assert not _traits(lambda x: tf.tanh(x) + tf.random.normal([4])).is_chain


def test_a_loop_of_tf1_is_no_chain() -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [4], name="x")
        enter = tf.raw_ops.Enter(data=x, frame_name="loop")
        merge = tf.raw_ops.Merge(inputs=[enter, enter])
        switch = tf.raw_ops.Switch(data=merge.output, pred=tf.raw_ops.LoopCond(input=merge.output[0] < 9.0))
        follow = tf.raw_ops.NextIteration(data=switch.output_true + 1.0)
        merge.output.op._update_input(1, follow)
        tf.raw_ops.Exit(data=switch.output_false, name="y")

    assert not Traits(graph.as_graph_def(), ["y:0"], ["x:0"]).is_chain
