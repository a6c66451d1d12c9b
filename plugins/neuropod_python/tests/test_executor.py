"""Whose memory goes in and comes out, and what happens when a call fails."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropod_core import Executor, InferenceError, ModelClosedError, OutOfDeviceMemoryError, Problem

Load = Callable[..., Executor]

_HEAD = """
import collections, ctypes, gc, mmap, sys, threading, types, weakref
import numpy as np

def read_only(array):
    array.flags.writeable = False
    return array

class Sub(np.ndarray):
    pass

class Named:
    def __init__(self, array):
        self.array = array
    def __array__(self, dtype=None, copy=None):
        return self.array
"""

_HELD = np.arange(4, dtype=np.float32)

# Each model holds the memory `held` (or a view of the same memory) and gives a result that starts with it. After a call
# `held` is overwritten: a result that was not private changes.
_LEAKS = {
    "the buffer itself": "held",
    "a slice": "held[:]",
    "a reversed view": "held[::-1][::-1]",
    "a transpose": "held.T",
    "a reshape": "held.reshape(2, 2).reshape(4)",
    "a broadcast": "np.broadcast_to(held, (4,))",
    "a real part": "held.view(np.float32)",
    "a subclass": "held.view(Sub)",
    "a read-only view": "read_only(held.view())",
    "a frombuffer": "np.frombuffer(held.data, np.float32)",
    "an ndarray over a buffer": "np.ndarray((4,), np.float32, buffer=held)",
    "an asarray of a memoryview": "np.asarray(memoryview(held))",
    "a DLPack alias": "np.from_dlpack(held)",
    "a ctypes alias": "np.ctypeslib.as_array(ctypes.cast(held.ctypes.data, ctypes.POINTER(ctypes.c_float)), (4,))",
    "an array protocol": "Named(held)",
    "a view of a view": "held[:].view(Sub)[:]",
    "as_strided": "np.lib.stride_tricks.as_strided(held, (4,), (4,))",
    "a masked array's data": "np.ma.masked_array(held).data",
    "a record field": "record['f']",
}

# Each model makes a fresh array and keeps a way to its memory, which the next line writes through.
_KEPT = {
    "an attribute": "state.way = fresh",
    "a view": "state.way = fresh[:]",
    "a memoryview": "state.way = memoryview(fresh)",
    "the array's buffer": "state.way = fresh.data",
    "a ctypes buffer": "state.way = (ctypes.c_float * 4).from_buffer(fresh)",
    "a ctypes pointer": "state.way = fresh.ctypes.data_as(ctypes.POINTER(ctypes.c_float))",
    "a DLPack alias": "state.way = np.from_dlpack(fresh)",
    "a weak reference": "state.ref = weakref.ref(fresh); state.way = None",
    "a weak dictionary": "weak = weakref.WeakValueDictionary(y=fresh); state.ref = lambda: weak.get('y')",
    "a list": "state.way = fresh; state.list = [fresh] * 3",
    "a closure": "state.way = (lambda: fresh)()",
    "a thread": "state.way = fresh; threading.Thread(target=lambda a: None, args=(fresh,)).start()",
    "a default argument": "state.way = (lambda a=fresh: a).__defaults__[0]",
    "the result dictionary": "state.way = fresh; result = state.result = {'y': fresh}; state.way = None",
}
if np.lib.NumpyVersion(np.__version__) < "2.1.0":
    del _KEPT["a DLPack alias"]  # A read-only one, so nothing can be written through it.


def _check_unchanged(executor: Executor) -> None:
    x = np.zeros(4, np.float32)
    first = executor.infer({"x": x})["y"]
    assert type(first) is np.ndarray
    np.testing.assert_array_equal(first, _HELD)

    executor.infer({"x": np.full(4, 9, np.float32)})
    np.testing.assert_array_equal(first, _HELD)
    first[:] = -1
    np.testing.assert_array_equal(x, 0)
    np.testing.assert_array_equal(executor.infer({"x": x})["y"], _HELD)


@pytest.mark.parametrize("result", _LEAKS.values(), ids=_LEAKS)
def test_results_are_private_where_the_model_holds_a_buffer(load: Load, result: str) -> None:
    entry = f"""{_HEAD}
def main(path):
    held = np.arange(4, dtype=np.float32)
    record = np.zeros(4, [("f", np.float32)])
    def model(x):
        held[:] = np.arange(4)
        record["f"] = held
        if x[0]:
            held[:] = x
            record["f"] = x
        return {{"y": {result}}}
    return model
"""
    _check_unchanged(load({"entry.py": entry}))


@pytest.mark.parametrize("keep", _KEPT.values(), ids=_KEPT)
def test_results_are_private_where_the_model_keeps_a_way_in(load: Load, keep: str) -> None:
    entry = f"""{_HEAD}
def main(path):
    state = types.SimpleNamespace(way=None, ref=None, result=None)
    def model(x):
        if x[0]:
            if state.result is not None:
                state.result["y"][:] = 9
            if state.way is not None:
                for index in range(4):
                    state.way[index] = 9
            kept = state.ref() if state.ref is not None else None
            if kept is not None:
                kept[:] = 9
            return {{"y": x}}
        fresh = np.arange(4, dtype=np.float32)
        result = {{"y": fresh}}
        {keep}
        return result
    return model
"""
    _check_unchanged(load({"entry.py": entry}))


_CONSTANTS = {
    "bytes": "np.frombuffer(bytes(np.arange(4, dtype=np.float32)), np.float32)",
    "a memory map": "np.memmap(path, np.float32, 'r', shape=(4,))",
    "a constant": "CONSTANT",
    "a read-only constant": "read_only(CONSTANT)",
    "a weak cache": "cache.setdefault('y', np.arange(4, dtype=np.float32))",
    "a part of a larger array": "np.arange(400, dtype=np.float32)[:4]",
    "a private reshape": "np.arange(4, dtype=np.float32).reshape(2, 2).reshape(4)",
    "a private slice": "np.arange(5, dtype=np.float32)[:4]",
    "a fresh read-only array": "read_only(np.arange(4, dtype=np.float32))",
    "a fresh subclass": "np.arange(4, dtype=np.float32).view(Sub)",
}


@pytest.mark.parametrize("result", _CONSTANTS.values(), ids=_CONSTANTS)
def test_results_can_be_written_and_the_model_does_not_see_it(load: Load, result: str, tmp_path: Path) -> None:
    file = tmp_path / "numbers.bin"
    file.write_bytes(_HELD.tobytes())
    entry = f"""{_HEAD}
CONSTANT = np.arange(4, dtype=np.float32)
cache = weakref.WeakValueDictionary()
path = {str(file)!r}
def main(_):
    return lambda x: {{"y": {result}}}
"""
    _check_unchanged(load({"entry.py": entry}))


def test_one_array_under_two_names_becomes_two(load: Load) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]", "z": "float32[N]"})
    for pair in ("x, x", "x[:], x", "x[:2], x[2:]"):
        entry = f"def main(path):\n    return lambda x: dict(zip('yz', ({pair})))\n"
        results = load({"entry.py": entry}, problem=problem).infer({"x": np.arange(4, dtype=np.float32)})

        results["y"][:] = 7
        assert 7 not in results["z"]


_NAMES = ("a", "b", "c")
_THREE = Problem.of({"x": "float32[N]"}, dict.fromkeys(_NAMES, "float32[N]"))


@pytest.mark.parametrize("way", ["held", "held[:]", "held.reshape(2, 2).reshape(4)"], ids=["itself", "view", "reshape"])
@pytest.mark.parametrize("name", _NAMES)
def test_one_held_array_among_fresh_ones_is_copied(load: Load, name: str, way: str) -> None:
    entry = f"""{_HEAD}
def main(path):
    held = np.zeros(4, np.float32)
    def model(x):
        held[:] = x
        return {{name: {way} if name == {name!r} else x + 0 for name in "abc"}}
    return model
"""
    executor = load({"entry.py": entry}, problem=_THREE)
    first = executor.infer({"x": np.zeros(4, np.float32)})
    executor.infer({"x": np.ones(4, np.float32)})

    assert {key: array.tolist() for key, array in first.items()} == {key: [0, 0, 0, 0] for key in _NAMES}


@pytest.mark.parametrize("names", ["ab", "abx", "abcx", ""])
def test_results_of_other_names_are_handed_on(load: Load, names: str) -> None:
    entry = f"def main(path):\n    return lambda x: {{name: x + 1 for name in {names!r}}}\n"

    results = load({"entry.py": entry}, problem=_THREE).infer({"x": np.zeros(2, np.float32)})

    assert {name: array.tolist() for name, array in results.items()} == {key: [1, 1] for key in names}


def test_private_results_of_several_names_are_not_copied(load: Load) -> None:
    entry = f"""{_HEAD}
def main(path):
    def model(x):
        results = {{name: x + 1 for name in "abc"}}
        model.at = [array.ctypes.data for array in results.values()]
        return results
    model.at = []
    where = lambda: {{"at": np.array(model.at)}}
    return lambda x: where() if x[0] else model(x)
"""
    executor = load({"entry.py": entry}, problem=_THREE)
    results = executor.infer({"x": np.zeros(100, np.float32)})

    assert [array.ctypes.data for array in results.values()] == executor.infer({"x": np.ones(1, np.float32)})[
        "at"
    ].tolist()


def test_private_results_are_not_copied(load: Load) -> None:
    seen: list[int] = []
    sys.modules["neuropod_test_hook"] = type(sys)("neuropod_test_hook")
    sys.modules["neuropod_test_hook"].__dict__["seen"] = seen
    entry = """
import neuropod_test_hook
def main(path):
    def model(x, seen=neuropod_test_hook.seen):
        y = (x + 1){shape}
        seen.append(y.__array_interface__["data"][0])
        return {{"y": y}}
    return model
"""
    for shape in ("", ".reshape(-1)"):
        executor = load({"entry.py": entry.format(shape=shape)})
        for _ in range(3):
            result = executor.infer({"x": np.zeros(100, np.float32)})["y"]

            assert result.__array_interface__["data"][0] == seen[-1]
    del sys.modules["neuropod_test_hook"]


# -- inputs

_WRITES = {
    "in place": "x += 1",
    "an item": "x[...] = 5",
    "out=": "np.add(x, 1, out=x)",
    "a sort": "x.sort()",
    "through the flag": "x.flags.writeable = True; x += 1",
    "through ctypes": "ctypes.memset(x.ctypes.data, 1, x.nbytes)",
    "a buffer": "memoryview(x).cast('B')[0:1] = b'A'",
}


@pytest.mark.parametrize("write", _WRITES.values(), ids=_WRITES)
@pytest.mark.parametrize("is_read_only", [False, True], ids=["writeable", "read-only"])
def test_inputs_are_never_written(load: Load, write: str, is_read_only: bool) -> None:
    entry = (
        f"{_HEAD}\ndef main(path):\n    def model(x):\n        {write}\n        return {{'y': x}}\n    return model\n"
    )
    executor = load({"entry.py": entry})
    x = np.array([3, 2, 1], np.float32)
    x.flags.writeable = not is_read_only

    y = executor.infer({"x": x})["y"]

    np.testing.assert_array_equal(x, [3, 2, 1])
    assert not np.array_equal(y, x)


def test_inputs_that_the_model_keeps_are_its_own(load: Load) -> None:
    entry = """
def main(path):
    kept = []
    def model(x):
        kept.append(x)
        return {"y": kept[0]}
    return model
"""
    executor = load({"entry.py": entry})
    x = np.ones(3, np.float32)
    first = executor.infer({"x": x})["y"]
    x[:] = 7
    first[:] = 8

    np.testing.assert_array_equal(executor.infer({"x": x})["y"], 1)


@pytest.mark.parametrize("how", ["option", "config"])
def test_inputs_are_not_copied_where_the_model_promises(load: Load, how: str) -> None:
    entry = "def main(path):\n    return lambda x: {'y': x + x.__array_interface__['data'][0] % 4096}\n"
    where = {"writes_inputs": False} if how == "option" else {"config": {"writes_inputs": False}}
    x = np.zeros(3, np.float32)

    y = load({"entry.py": entry}, **where).infer({"x": x})["y"]

    np.testing.assert_array_equal(y, x.__array_interface__["data"][0] % 4096)


@pytest.mark.parametrize("result", ["x", "x[:]", "x[::-1][::-1]", "x.reshape(1, -1)[0]"])
def test_results_share_nothing_with_inputs_that_were_not_copied(load: Load, result: str) -> None:
    entry = f"def main(path):\n    return lambda x: {{'y': {result}}}\n"
    x = np.arange(3, dtype=np.float32)

    y = load({"entry.py": entry}, writes_inputs=False).infer({"x": x})["y"]

    np.testing.assert_array_equal(x, y)
    assert not np.shares_memory(x, y)


def test_optional_inputs_may_be_missing(load: Load) -> None:
    problem = Problem.of(
        [{"name": n, "dtype": "float32", "shape": [3], "optional": True} for n in "xz"], {"y": "float32[3]"}
    )
    executor = load({"entry.py": "def main(path):\n    return lambda x, z=5: {'y': x + z}\n"}, problem=problem)
    x = np.ones(3, np.float32)

    assert executor.infer({"x": x})["y"].tolist() == [6, 6, 6]
    assert executor.infer({"x": x, "z": x})["y"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["naïve name", "0", "class", "ﬁ", "x'y", "__import__('os')", "x=1"])
def test_inputs_of_any_name_are_passed(load: Load, name: str) -> None:
    problem = Problem.of({name: "float32[3]"}, {"y": "float32[3]"})
    entry = f"def main(path):\n    return lambda **inputs: {{'y': inputs[{name!r}]}}\n"

    assert load({"entry.py": entry}, problem=problem).infer({name: np.ones(3, np.float32)})["y"].tolist() == [1, 1, 1]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chain=st.lists(st.sampled_from(["[:]", "[::-1]", ".T", ".copy()", "[1:]", ".view()", ".reshape(-1)"]), max_size=5)
)
def test_results_of_any_chain_of_views_are_private(load: Load, chain: list[str]) -> None:
    entry = f"""
import numpy as np
def main(path):
    held = np.arange(8, dtype=np.float32)
    def model(x):
        held[:] = x[0]
        return {{"y": held{"".join(chain)}}}
    return model
"""
    executor = load({"entry.py": entry})
    first = executor.infer({"x": np.zeros(2, np.float32)})["y"]
    executor.infer({"x": np.ones(2, np.float32)})

    assert not first.any()
    assert first.flags.writeable


# -- results of other kinds

_CONVERTED = {
    "a NumPy scalar": ("float32[]", "np.float32(3)", np.float32(3)),
    "text of fixed width": ("string[2]", "np.array(['a', 'bcd'])", np.array(["a", "bcd"], object)),
    "bytes": ("string[2]", "np.array([b'a', 'naïve'.encode()])", np.array(["a", "naïve"], object)),
    "objects": ("string[2]", "np.array(['a', b'b'], object)", np.array(["a", "b"], object)),
}


@pytest.mark.parametrize(("spec", "result", "expected"), _CONVERTED.values(), ids=_CONVERTED)
def test_results_are_brought_into_their_one_form(load: Load, spec: str, result: str, expected: np.ndarray) -> None:
    entry = f"import numpy as np\ndef main(path):\n    return lambda x: {{'y': {result}}}\n"
    executor = load({"entry.py": entry}, problem=Problem.of({"x": "float32[]"}, {"y": spec}))

    y = executor.infer({"x": np.array(1, np.float32)})["y"]

    assert type(y) is np.ndarray
    assert y.dtype == expected.dtype
    assert y.tolist() == expected.tolist()


def test_strings_that_the_model_holds_are_its_own(load: Load) -> None:
    entry = f"{_HEAD}def main(path):\n    held = np.array(['a', 'b'], object)\n    return lambda x: {{'y': held}}\n"
    executor = load({"entry.py": entry}, problem=Problem.of({"x": "string[N]"}, {"y": "string[N]"}))
    x = np.array(["c", "d"], object)

    executor.infer({"x": x})["y"][0] = "changed"

    assert executor.infer({"x": x})["y"].tolist() == ["a", "b"]


def test_only_what_is_asked_for_is_copied(load: Load) -> None:
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]", "z": "float32[N]"})
    entry = "import collections\ndef main(path):\n    return lambda x: collections.OrderedDict(y=x, z=[1, 2])\n"

    results = load({"entry.py": entry}, problem=problem).infer({"x": np.ones(2, np.float32)}, ["y"])

    assert list(results) == ["y"]


@pytest.mark.parametrize("result", ["x", "[x]", "None", "(item for item in x)"])
def test_results_that_are_no_tensors_by_name_are_refused(load: Load, result: str) -> None:
    executor = load({"entry.py": f"def main(path):\n    return lambda x: {result}\n"})

    with pytest.raises(InferenceError, match="not tensors by name; return a dictionary of arrays by output name"):
        executor.infer({"x": np.ones(2, np.float32)})


def test_a_coroutine_is_refused_without_a_warning(load: Load) -> None:
    executor = load({"entry.py": "async def later(x):\n    pass\ndef main(path):\n    return lambda x: later(x)\n"})

    with pytest.raises(InferenceError, match="coroutine"):
        executor.infer({"x": np.ones(2, np.float32)})


# -- failures


def test_a_failing_call_names_the_line_of_the_package(load: Load) -> None:
    files = {
        "entry.py": "from deep import fail\ndef main(path):\n    return lambda x: fail(x)\n",
        "deep.py": "import numpy as np\ndef fail(x):\n    return np.concatenate([])\n",
    }
    with pytest.raises(InferenceError, match="the model raised ValueError: need at least one array") as raised:
        load(files).infer({"x": np.ones(2, np.float32)})

    assert raised.value.at.endswith("deep.py:3")
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize("error", ["SystemExit(3)", "GeneratorExit()", "BaseException('odd')", "MemoryError()"])
def test_whatever_a_model_raises_is_an_inference_error(load: Load, error: str) -> None:
    executor = load({"entry.py": f"def main(path):\n    def model(x):\n        raise {error}\n    return model\n"})

    with pytest.raises(InferenceError, match=f"the model raised {error.partition('(')[0]}"):
        executor.infer({"x": np.ones(2, np.float32)})


def test_an_interrupt_passes(load: Load) -> None:
    executor = load(
        {"entry.py": "def main(path):\n    def model(x):\n        raise KeyboardInterrupt\n    return model\n"}
    )

    with pytest.raises(KeyboardInterrupt):
        executor.infer({"x": np.ones(2, np.float32)})


def test_an_exhausted_device_is_told_apart(load: Load) -> None:
    entry = """
class OutOfMemoryError(RuntimeError):
    pass
def main(path):
    def model(x):
        raise OutOfMemoryError("CUDA")
    return model
"""

    with pytest.raises(OutOfDeviceMemoryError, match="CUDA"):
        load({"entry.py": entry}).infer({"x": np.ones(2, np.float32)})


def test_messages_stay_short_and_on_one_line(load: Load) -> None:
    executor = load(
        {"entry.py": "def main(path):\n    def f(x):\n        raise ValueError('a\\nb' * 10000)\n    return f\n"}
    )

    with pytest.raises(InferenceError) as raised:
        executor.infer({"x": np.ones(2, np.float32)})

    assert len(raised.value.what) < 1000
    assert "\n" not in str(raised.value)


def test_a_closed_executor_says_so(load: Load) -> None:
    executor = load({"entry.py": "def main(path):\n    return lambda x: {'y': x}\n"})
    executor.close()

    with pytest.raises(ModelClosedError):
        executor.infer({"x": np.ones(2, np.float32)})


MEETING = """
import threading
def main(path):
    meeting = threading.Barrier(2)
    def model(x):
        meeting.wait(10)
        return {"y": x}
    return model
"""

ALONE = """
import threading
def main(path):
    inside = threading.Semaphore()
    def model(x):
        assert inside.acquire(blocking=False)
        for _ in range(100):
            pass
        inside.release()
        return {"y": x}
    return model
"""


@pytest.mark.parametrize(
    ("config", "option", "overlap"),
    [({}, None, False), ({"thread_safe": True}, None, True), ({}, True, True), ({"thread_safe": True}, False, False)],
)
def test_calls_overlap_only_where_it_was_said_that_they_may(
    config: dict[str, bool], option: bool | None, overlap: bool, load: Load
) -> None:
    options = {} if option is None else {"thread_safe": option}
    executor = load({"entry.py": MEETING if overlap else ALONE}, config=config, **options)
    x = np.zeros(2, np.float32)

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(executor.infer, {"x": x}) for _ in range(2 if overlap else 400)]

        assert all(call.result()["y"].shape == (2,) for call in calls)


def test_a_package_says_that_its_model_keeps_state(load: Load) -> None:
    files = {"entry.py": "def main(path):\n    return lambda x: {'y': x}\n"}

    assert load(files, config={"stateful": True}).stateful
    assert not load(files).stateful


def test_results_are_private_while_threads_run(load: Load) -> None:
    entry = """
import numpy as np, threading
def main(path):
    local = threading.local()
    def model(x):
        if not hasattr(local, "held"):
            local.held = np.empty(64, np.float32)
        np.copyto(local.held, x)
        return {"y": local.held}
    return model
"""
    executor = load({"entry.py": entry}, thread_safe=True)
    wrong: list[int] = []

    def calls(number: int) -> None:
        kept = [executor.infer({"x": np.full(64, number + 8 * call, np.float32)})["y"] for call in range(200)]
        wrong.extend(call for call, y in enumerate(kept) if (y != number + 8 * call).any())

    threads = [threading.Thread(target=calls, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
