"""How a session is called: what is computed, what is kept, from which threads, and how it ends."""

from __future__ import annotations

import gc
import itertools
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from neuropod_core import (
    DeviceError,
    InferenceError,
    ModelClosedError,
    ModelLoadError,
    OptionError,
    OutOfDeviceMemoryError,
    Problem,
)
from neuropod_tf import _calls
from neuropod_tf._calls import fast_callable, public_callable

Open = Callable[..., Any]
X = np.arange(6, dtype=np.float32)


class Counter(tf.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)
        self.weight = tf.Variable(3.0)

    def count(self, x: Any) -> dict[str, Any]:
        return {"y": x * 0.0 + self.calls.assign_add(1.0)}

    def weigh(self, x: Any) -> dict[str, Any]:
        return {"y": x * self.weight}


def _mlp(x: Any, widths: tuple[int, ...] = (64, 32, 10)) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for inner, outer in itertools.pairwise(widths):
        x = tf.nn.relu(x @ tf.constant(rng.normal(size=(inner, outer)).astype(np.float32)))
    return {"y": x}


# -- what is computed


def _two(x: Any) -> dict[str, Any]:
    return {"good": x + 1.0, "bad": tf.reshape(x, [3])}


def test_only_what_is_asked_for_is_computed(serve: Open) -> None:
    executor = serve(_two, "float32[N]", {"good": "float32[N]", "bad": "float32[3]"})

    np.testing.assert_array_equal(executor.infer({"x": X}, ["good"])["good"], X + 1)
    with pytest.raises(InferenceError, match="reshape"):
        executor.infer({"x": X}, ["bad"])
    with pytest.raises(InferenceError, match="reshape"):
        executor.infer({"x": X})


def test_of_text_too_only_what_is_asked_for_is_computed(serve: Open) -> None:
    def texts(x: Any) -> dict[str, Any]:
        return {"good": tf.strings.upper(x), "bad": tf.strings.substr(x, 3, 1)}

    executor = serve(texts, "string[N]", {"good": "string[N]", "bad": "string[N]"})
    x = np.array(["ab"], object)

    assert executor.infer({"x": x}, ["good"])["good"].tolist() == ["AB"]
    with pytest.raises(InferenceError, match="pos 3"):
        executor.infer({"x": x}, ["bad"])


def test_an_output_that_is_not_asked_for_costs_nothing(serve: Open) -> None:
    def costly(x: Any) -> dict[str, Any]:
        wide = tf.random.stateless_normal([600, 600], [1, 2]) + x[0]
        for _ in range(20):
            wide = tf.tanh(wide @ wide)
        return {"cheap": x + 1.0, "costly": tf.reduce_sum(wide)}

    executor = serve(costly, "float32[N]", {"cheap": "float32[N]", "costly": "float32[]"})
    for outputs in (None, ["cheap"]):
        executor.infer({"x": X}, outputs)  # Prepares the selection.

    assert 5 * _seconds(lambda: executor.infer({"x": X}, ["cheap"])) < _seconds(lambda: executor.infer({"x": X}))


def test_selections_are_prepared_once_and_bounded(serve: Open) -> None:
    names = [f"y{number}" for number in range(8)]
    executor = serve(lambda x: dict.fromkeys(names, x + 1.0), "float32[N]", dict.fromkeys(names, "float32[N]"))

    executor.infer({"x": X}, ["y1", "y0"])
    prepared = executor._plans[("x",), ("y1", "y0")]
    executor.infer({"x": X}, ["y1", "y0"])
    assert executor._plans[("x",), ("y1", "y0")] is prepared

    for first in names:
        for second in names:
            for third in names[:3]:
                asked = [first, second, third]
                assert set(executor.infer({"x": X}, asked)) == set(asked)
    assert len(executor._plans) <= 64


def test_no_output_asked_for_is_no_call(serve: Open) -> None:
    executor = serve(_two, "float32[N]", {"good": "float32[N]", "bad": "float32[3]"})

    assert executor.infer({"x": X}, []) == {}


def test_an_absent_input_is_an_error_only_where_it_is_needed(save: Any, open_folder: Open) -> None:
    folder = save(lambda x, y: {"a": x + 1.0, "b": y + 1.0}, x=("float32", [None]), y=("float32", [None]))
    problem = Problem.of({"x": "float32[N]", "y": "float32[N]"}, {"a": "float32[N]", "b": "float32[N]"})
    executor = open_folder(folder, problem)

    np.testing.assert_array_equal(executor.infer({"x": X}, ["a"])["a"], X + 1)
    with pytest.raises(InferenceError, match="serving_default_y"):
        executor.infer({"x": X})


# -- state


def test_state_is_kept_between_calls_and_said_to_be(serve: Open) -> None:
    counter = Counter()
    executor = serve(counter.count, "float32[N]", {"y": "float32[N]"}, module=counter)

    assert [executor.infer({"x": X})["y"][0] for _ in range(3)] == [1, 2, 3]
    assert (executor.stateful, executor.thread_safe) == (True, False)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: {"y": x + 1.0},
        lambda x: {"y": x + tf.random.uniform([])},
        lambda x: {"y": tf.map_fn(lambda one: one * 2.0, x)},
        lambda x: {"y": tf.cond(x[0] > 0, lambda: x, lambda: -x)},
    ],
    ids=["pure", "random", "mapped", "branching"],
)
def test_models_without_state_say_so(serve: Open, function: Any) -> None:
    executor = serve(function, "float32[N]", {"y": "float32[N]"})

    assert (executor.stateful, executor.thread_safe) == (False, True)


def test_two_models_of_one_folder_share_no_state(save: Any, open_folder: Open) -> None:
    counter = Counter()
    folder = save(counter.count, module=counter, x=("float32", [None]))
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
    first, second = open_folder(folder, problem), open_folder(folder, problem)

    first.infer({"x": X})

    assert first.infer({"x": X})["y"][0] == 2
    assert second.infer({"x": X})["y"][0] == 1


# -- threads


@pytest.mark.parametrize("options", [{}, {"inter_op_threads": 2}], ids=["caller's thread", "pool"])
def test_eight_threads_get_the_answers_of_one(serve: Open, options: dict[str, int]) -> None:
    executor = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"}, **options)
    inputs = [np.random.default_rng(seed).normal(size=(seed % 3 + 1, 64)).astype(np.float32) for seed in range(64)]
    alone = [executor.infer({"x": x})["y"] for x in inputs]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: executor.infer({"x": x}, ["y"])["y"], inputs * 4))

    for got, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_chain_runs_in_the_callers_thread(serve: Open) -> None:
    chain = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"})
    asked_for_threads = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"}, inter_op_threads=2)
    wide = serve(lambda x: {"y": tf.tanh(x) + tf.sin(x)}, "float32[N]", {"y": "float32[N]"})
    asked_for_one = serve(
        lambda x: {"y": tf.tanh(x) + tf.sin(x)}, "float32[N]", {"y": "float32[N]"}, inter_op_threads=1
    )

    said = [model.description["operations"] for model in (chain, asked_for_one, wide, asked_for_threads)]
    assert said == ["in the caller's thread"] * 2 + ["in TensorFlow's threads"] * 2


@pytest.mark.parametrize("options", [{"intra_op_threads": 0}, {"inter_op_threads": "2"}, {"signature": 3}], ids=str)
def test_options_with_impossible_values_are_refused(serve: Open, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        serve(lambda x: {"y": x}, "float32[N]", {"y": "float32[N]"}, **options)


def test_a_second_wish_for_threads_inside_operations_is_logged(serve: Open, caplog: pytest.LogCaptureFixture) -> None:
    serve(lambda x: {"y": x}, "float32[N]", {"y": "float32[N]"})

    executor = serve(lambda x: {"y": x}, "float32[N]", {"y": "float32[N]"}, intra_op_threads=97)

    assert "not 97" in caplog.text
    assert executor.description["intra_op_threads"] != 97


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(serve: Open) -> None:
    with pytest.raises(DeviceError, match="TensorFlow sees 0 GPUs"):
        serve(lambda x: {"y": x}, "float32[N]", {"y": "float32[N]"}, device="cuda")

    assert serve(lambda x: {"y": x}, "float32[N]", {"y": "float32[N]"}, device="auto").description["device"] == "cpu"


# -- ways to call


@pytest.mark.parametrize("call", [fast_callable, public_callable], ids=lambda call: call.__name__)
@pytest.mark.parametrize("inline", [False, True], ids=["pool", "caller's thread"])
def test_every_way_of_calling_gives_the_same(serve: Open, call: Any, inline: bool) -> None:
    executor = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"})
    x = np.ones((2, 64), np.float32)
    way = call(executor._session, [executor._inputs["x"]], [executor._fetched["y"]], inline=inline)

    (y,) = way(x)

    np.testing.assert_array_equal(y, executor.infer({"x": x})["y"])


@pytest.mark.parametrize("failure", [AttributeError, TypeError])
def test_without_the_fast_way_models_run_by_the_public_one(
    serve: Open, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise failure("no such way in this TensorFlow")

    monkeypatch.setattr(_calls, "fast_callable", missing)
    counter = Counter()
    executor = serve(counter.weigh, "float32[N]", {"y": "float32[N]"}, module=counter)
    scalar = serve(lambda x: {"y": tf.reduce_sum(x)}, "float32[N]", {"y": "float32[]"})

    np.testing.assert_array_equal(executor.infer({"x": X})["y"], X * 3)
    y = scalar.infer({"x": X})["y"]
    assert (type(y), y.shape, y.dtype) == (np.ndarray, (), np.float32)
    executor.close()
    with pytest.raises(ModelClosedError):
        executor.infer({"x": X})


def test_a_call_is_much_faster_than_the_saved_models_signature(save: Any, open_folder: Open) -> None:
    folder = save(_mlp, x=("float32", [None, 64]))
    executor = open_folder(folder, Problem.of({"x": "float32[N, 64]"}, {"y": "float32[N, 10]"}))
    model = tf.saved_model.load(str(folder / "data" / "savedmodel"))
    signature = model.signatures["serving_default"]
    inputs = [np.random.default_rng(seed).normal(size=(1, 64)).astype(np.float32) for seed in range(8)]
    taken: dict[str, list[float]] = {"ours": [], "signature": []}

    for _ in range(20):
        taken["ours"].append(_seconds(lambda: [executor.infer({"x": x}) for x in inputs]))
        taken["signature"].append(_seconds(lambda: [signature(x=tf.constant(x))["y"].numpy() for x in inputs]))

    assert 3 * statistics.median(taken["ours"]) < statistics.median(taken["signature"])


# -- errors


def test_a_failing_operation_is_named_in_one_line(serve: Open) -> None:
    executor = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"})

    with pytest.raises(
        InferenceError, match=r"^TensorFlow failed: Matrix size-incompatible.* - at node '.*'$"
    ) as raised:
        executor.infer({"x": np.ones((1, 63), np.float32)})

    assert isinstance(raised.value.__cause__, tf.errors.InvalidArgumentError)
    assert "\n" not in str(raised.value)


def test_too_large_a_result_is_out_of_memory(serve: Open) -> None:
    executor = serve(lambda x: {"y": tf.fill([1 << 22, 1 << 22], x[0])}, "float32[N]", {"y": "float32[?, ?]"})

    with pytest.raises(OutOfDeviceMemoryError, match="OOM"):
        executor.infer({"x": X})


# -- the end


def test_a_closed_model_says_so(serve: Open) -> None:
    executor = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"})
    executor.close()

    with pytest.raises(ModelClosedError, match="closed"):
        executor.infer({"x": np.ones((1, 64), np.float32)})


def test_close_lets_go_of_session_and_graph_at_once(serve: Open) -> None:
    executor = serve(_mlp, "float32[N, 64]", {"y": "float32[N, 10]"})
    executor.infer({"x": np.ones((1, 64), np.float32)}, ["y"])
    held = [weakref.ref(executor._session), weakref.ref(executor._session.graph)]
    gc.disable()
    try:
        executor.close()
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


def test_models_opened_and_closed_in_turn_take_the_memory_of_one(save: Any, open_folder: Open) -> None:
    module = tf.Module()
    module.weight = tf.Variable(tf.zeros([50_000_000 // 4]))
    folder = save(lambda x: {"y": x + module.weight[0]}, module=module, x=("float32", [None]))
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
    sizes = []

    for _ in range(5):
        executor = open_folder(folder, problem)
        executor.infer({"x": X})
        executor.close()
        sizes.append(_resident_bytes())

    assert sizes[-1] - sizes[0] < 50_000_000


def test_a_refused_model_leaves_no_session(save: Any, open_folder: Open) -> None:
    folder = save(lambda x: {"y": x}, x=("float32", [None]))
    config = {"init_op_names": "no_such_operation"}

    with pytest.raises(ModelLoadError, match="no_such_operation"):
        open_folder(folder, Problem.of({"x": "float32[N]"}, {"y": "float32[N]"}), config=config)

    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is tf.compat.v1.Session]


# -- guests keep the house as it was


def test_importing_the_plugin_imports_no_tensorflow() -> None:
    program = "import sys, neuropod_tf, neuropod_tf.plugin; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["False", "False"]
    assert not run.stderr


_GUEST = """
import logging, os, sys
import tensorflow as tf
import numpy as np
from pathlib import Path
from neuropod_core import LoadOptions, Problem, Variant
from neuropod_tf.plugin import TensorFlowBackend
def house():
    return (dict(os.environ), tf.executing_eagerly(), tf.compat.v1.get_default_session(), tf.get_logger().level,
            logging.root.level, list(logging.root.handlers), tf.compat.v1.get_default_graph() is graph)
graph = tf.compat.v1.get_default_graph()
before = house()
problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
executor = TensorFlowBackend().load(Variant("tensorflow", Path(sys.argv[1]), problem), LoadOptions())
executor.infer({"x": np.ones(3, np.float32)})
print(house() == before, len(graph.get_operations()), tf.constant(1).numpy())
sys.stderr.flush(); sys.stdout.flush()
"""


def test_loading_changes_nothing_else_in_the_process(save: Any) -> None:
    folder = save(lambda x: {"y": x}, x=("float32", [None]))

    run = subprocess.run([sys.executable, "-c", _GUEST, folder], capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["True", "0", "1"]
    assert "deprecated" not in run.stderr
    assert "Warning" not in run.stderr


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
