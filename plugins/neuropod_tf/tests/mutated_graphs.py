"""Opens and runs graphs that are well-formed and wrong: ``python mutated_graphs.py FIRST LAST``, a line for each case.

Damage to the bytes of a file seldom survives its parser. These graphs have wrong types, lengths, constants and edges.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from neuropod_core import LoadOptions, NeuropodError, Problem, Variant
from neuropod_tf.plugin import TensorFlowBackend

PROBLEM = Problem.of({"x": "float32[N, 4]", "word": "string[N]"}, {"y": "float32[N, 3]", "id": "int64[N]"})
INPUTS = {"x": np.ones((2, 4), np.float32), "word": np.array(["two", "no word"], object)}
NAMES = {name: name for name in ("x", "word", "y", "id")}
MEMORY_BYTES = 6 << 30
_TYPES = (1, 2, 3, 7, 9, 10, 20, 21, 100, 999)
_NUMBERS = (-(2**63), -1, 0, 1, 2**31, 2**62)
_WHOLE = (3, 9)  # int32 and int64


def graph() -> tf.Graph:
    """Build a sound graph: a convolution, a product, slices, text."""
    built = tf.Graph()
    with built.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        word = tf.compat.v1.placeholder(tf.string, [None], name="word")
        slid = tf.nn.conv1d(x[:, :, None], tf.ones([2, 1, 3]), 1, "SAME")
        tf.nn.softmax(tf.reduce_max(slid, 1) + x @ tf.random.stateless_normal([4, 3], [1, 2]), name="y")
        tf.strings.to_hash_bucket_fast(word, 10, name="id")
    return built


def mutated(definition: Any, chance: random.Random) -> Any:
    """Change a ``GraphDef`` in one to four places; gives it."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        if definition.node:
            chance.choice(_CHANGES)(definition, chance.choice(definition.node), chance)
    return definition


def _edge(definition: Any, node: Any, chance: random.Random) -> None:
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(definition.node).name


def _operation(definition: Any, node: Any, chance: random.Random) -> None:
    node.op = chance.choice(definition.node).op


def _type(_: Any, node: Any, chance: random.Random) -> None:
    if node.attr:
        node.attr[chance.choice(sorted(node.attr))].type = chance.choice(_TYPES)


def _number(_: Any, node: Any, chance: random.Random) -> None:
    if node.attr:
        node.attr[chance.choice(sorted(node.attr))].i = chance.choice(_NUMBERS)


def _shape(_: Any, node: Any, chance: random.Random) -> None:
    if node.attr:
        attribute = node.attr[chance.choice(sorted(node.attr))]
        lengths = attribute.tensor.tensor_shape.dim if attribute.HasField("tensor") else attribute.shape.dim
        (chance.choice(lengths) if lengths else lengths.add()).size = chance.choice((-5, -1, 0, 1, 3, 2**31, 2**62))


def _less(definition: Any, node: Any, _: random.Random) -> None:
    definition.node.remove(node)


def _more(definition: Any, node: Any, chance: random.Random) -> None:
    copy = definition.node.add()
    copy.CopyFrom(node)
    copy.name += chance.choice(("", "_2"))


def _argument(definition: Any, node: Any, chance: random.Random) -> None:
    node.input.append(chance.choice(definition.node).name)


def _constant(definition: Any, _: Any, chance: random.Random) -> None:
    constants = [node.attr["value"].tensor for node in definition.node if node.op == "Const"]
    held = chance.choice(constants) if constants else None
    if held is not None and held.dtype in _WHOLE and not held.tensor_content:
        random_numbers = np.random.default_rng(chance.randrange(2**32))
        shape = [max(0, min(length.size, 8)) for length in held.tensor_shape.dim]
        value = random_numbers.choice([-(2**31), -1, 0, 1, 2, 5, 1000, 2**31 - 1], size=shape)
        held.CopyFrom(tf.make_tensor_proto(value, dtype=held.dtype))


_CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    *(_edge, _operation, _type, _number, _shape, _less, _more, _argument, _constant),
)


def outcome(folder: Path) -> str:
    """Open and run the graph of a variant, and say how it ended; what is not ours begins with ``foreign``."""
    try:
        executor = TensorFlowBackend().load(
            Variant("tensorflow", folder, PROBLEM, config={"node_name_mapping": NAMES}), LoadOptions()
        )
        try:
            executor.infer(INPUTS)
        finally:
            executor.close()
    except NeuropodError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        return f"foreign {type(error).__name__}: {str(error).splitlines()[0]}"
    return "results"


def main(first: int, last: int) -> None:
    """Try the cases, and print the number of each before, the outcome after it."""
    sound = graph().as_graph_def().SerializeToString()
    with tempfile.TemporaryDirectory(prefix="neuropod-mutated-") as root:
        folder = Path(root, "0")
        (folder / "data").mkdir(parents=True)
        _limit()
        for number in range(first, last):
            _say(f"{number} ")
            chance = random.Random(number)  # noqa: S311 - the same changes in each run
            definition = mutated(tf.compat.v1.GraphDef.FromString(sound), chance)
            (folder / "data" / "model.pb").write_bytes(definition.SerializeToString())
            _say(f"{outcome(folder)}\n")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _limit() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, mapped + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
