"""Calls through a worker: the same values, errors and promises as in process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_lab import Load, said
from worker_marks import shared_memory_only

from neuropod_core import (
    DeadlineError,
    InferenceError,
    ModelClosedError,
    Neuropod,
    OptionError,
    OutOfDeviceMemoryError,
    SharedMemoryError,
    SpecError,
    TensorMismatchError,
    Worker,
    load_neuropod,
)

LARGE = 1 << 17  # Numbers of float64: a megabyte, too large for a tray.


@pytest.fixture
def model(load: Load) -> Neuropod:
    return load()


@pytest.mark.parametrize("count", [0, 1, 5, 8191, 8192, 8193, LARGE], ids=str)
def test_numbers_come_back_as_they_went_in(model: Neuropod, count: int) -> None:
    x = np.arange(count, dtype=np.float64)

    for _ in range(3):
        assert model.infer(said("copy", x))["y"].tolist() == x.tolist()


def test_sizes_may_change_from_call_to_call(model: Neuropod) -> None:
    for count in [3, LARGE, 4, 3, 0, LARGE, LARGE + 1, 9000] * 3:
        x = np.full(count, count, np.float64)
        assert np.array_equal(model.infer(said("double", x))["y"], 2 * x)


def test_more_layouts_than_are_remembered_still_work(model: Neuropod) -> None:
    for round_ in range(2):
        for count in range(600):
            assert model.infer(said("copy", np.full(count, round_)))["y"].sum() == count * round_


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), times=st.integers(1, 3000))
def test_text_of_any_length_and_script_comes_back(model: Neuropod, text: str, times: int) -> None:
    note = str(model.infer(said(f"copy:{text * times}", [1.0]))["note"][()])

    assert note.startswith("copy ")


def test_results_belong_to_the_caller(model: Neuropod) -> None:
    for count in (4, LARGE):
        first = model.infer(said("double", np.ones(count)))["y"]
        second = model.infer(said("double", np.full(count, 3.0)))["y"]
        first[0] = 99

        assert first[1] == 2
        assert second[0] == 6
        assert model.infer(said("double", np.ones(count)))["y"][0] == 2


def test_inputs_of_any_memory_layout_are_taken_and_stay_as_they_are(model: Neuropod) -> None:
    x = np.arange(40.0)
    kinds = {"reversed": x[::-1], "strided": x[::3], "read-only": x.copy()}
    kinds["read-only"].flags.writeable = False

    for kind in kinds.values():
        before = kind.tolist()
        assert model.infer(said("double", kind))["y"].tolist() == [2 * item for item in before]
        model.infer(said("write", kind))
        assert kind.tolist() == before


@pytest.mark.parametrize("outputs", [["y"], ["note"], ["note", "y"]], ids=" ".join)
def test_only_what_was_asked_for_comes_back(model: Neuropod, outputs: list[str]) -> None:
    assert sorted(model.infer(said("copy", [1.0]), outputs)) == sorted(outputs)


# -- errors


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("mismatch", TensorMismatchError),
        ("memory", OutOfDeviceMemoryError),
        ("spec", SpecError),
        ("own", InferenceError),
    ],
)
def test_errors_have_their_type_and_words(
    model: Neuropod, package: Callable[..., Path], what: str, kind: type[Exception]
) -> None:
    with load_neuropod(package()) as here, pytest.raises(kind) as expected:
        here.infer(said(f"raise:{what}"))

    with pytest.raises(kind) as got:
        model.infer(said(f"raise:{what}"))

    assert str(got.value) == str(expected.value)
    if what != "own":
        assert got.value.args == expected.value.args
    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]


@pytest.mark.parametrize("command", ["unknown", "wrong", "list"])
def test_what_an_executor_must_not_do_is_said_as_in_process(
    model: Neuropod, package: Callable[..., Path], command: str
) -> None:
    with load_neuropod(package()) as here, pytest.raises(InferenceError) as expected:
        here.infer(said(command))

    with pytest.raises(type(expected.value)) as got:
        model.infer(said(command))

    assert str(got.value) == str(expected.value)


def test_the_cause_of_an_error_tells_where_it_came_from(model: Neuropod) -> None:
    with pytest.raises(InferenceError, match="outer") as raised:
        model.infer(said("raise:else"))

    cause = raised.value.__cause__
    assert type(cause).__name__ == "CauseInWorkerError"
    assert "KeyError: 'inner'" in str(cause)
    assert "lab.py" in str(cause)


def test_inputs_are_checked_before_they_leave(model: Neuropod) -> None:
    with pytest.raises(TensorMismatchError, match=r"got float32\[1\] - at inputs.x"):
        model.infer({**said("copy"), "x": np.zeros(1, np.float32)})


def test_without_checks_only_what_can_travel_travels(load: Load) -> None:
    model = load(checks=False)

    assert model.infer({**said("copy"), "x": np.arange(3)})["y"].tolist() == [0, 1, 2]
    with pytest.raises(TensorMismatchError, match=r"complex128\[2\]"):
        model.infer({**said("copy"), "x": np.zeros(2, complex)})
    with pytest.raises(TensorMismatchError, match="object"):
        model.infer({**said("copy"), "x": object()})


# -- shared memory


@shared_memory_only("results of sockets are arrays of their own")
def test_large_results_are_views_that_outlive_calls_and_model(load: Load) -> None:
    model = load()
    kept = model.infer(said("double", np.arange(LARGE, dtype=np.float64)))["y"]
    part = kept[5:7].reshape(2, 1)
    window = memoryview(cast("Any", kept))[10:12]
    alias = np.from_dlpack(kept[20:])
    owner = cast("Any", kept.base)[8:16]
    del kept
    for _ in range(20):
        model.infer(said("double", np.zeros(LARGE)))
    model.close()

    assert part.tolist() == [[10], [12]]
    assert window.tolist() == [20, 22]
    assert alias[0] == 40
    assert owner.view(np.float64).tolist() == [2.0]


@shared_memory_only("sockets have no pool")
def test_memory_comes_back_when_the_last_view_is_dropped(model: Neuropod) -> None:
    def held() -> int:
        return int(cast("Any", model.stats())["shared_memory_bytes"]["held"])

    for _ in range(5):
        results = [model.infer(said("double", np.full(LARGE, number)))["y"] for number in range(30)]
        assert [int(result[-1]) for result in results] == [2 * number for number in range(30)]
        reserved = model.stats()["shared_memory_bytes"]["reserved"]  # type: ignore[index]
    del results
    model.infer(said("double", np.ones(LARGE)))

    assert held() <= 64 << 20
    assert model.stats()["shared_memory_bytes"]["reserved"] == reserved  # type: ignore[index]


@shared_memory_only("sockets have no pool")
def test_results_beyond_half_of_the_pool_are_private_copies(load: Load) -> None:
    model = load(shared_memory_bytes=16 << 20)
    results = [model.infer(said("copy", np.full(LARGE, number)))["y"] for number in range(40)]

    assert [int(result[0]) for result in results] == list(range(40))
    assert type(results[0].base).__name__ == "BlockArray"
    assert results[-1].base is None


def test_tensors_larger_than_the_pool_are_refused_with_the_remedy(load: Load) -> None:
    model = load(shared_memory_bytes=1 << 20)

    with pytest.raises(SharedMemoryError, match=r"do not fit .*1048576.*; pass Worker\(shared_memory_by"):
        model.infer(said("copy", np.zeros(LARGE + 9000)))
    with pytest.raises(SharedMemoryError, match="do not fit"):
        model.infer(said("repeat:40", np.zeros(8000)))

    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]


@shared_memory_only("sockets have no pool")
def test_a_full_pool_is_waited_for_and_then_an_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(shared_memory_bytes=4 << 20)
    hogs = [model.allocate("x", (LARGE,)) for _ in range(4)]

    with pytest.raises((SharedMemoryError, DeadlineError)):
        model.infer(said("copy", np.zeros(LARGE)), timeout_s=0.3)
    hogs.clear()

    assert model.infer(said("copy", np.ones(LARGE)))["y"].sum() == LARGE


@shared_memory_only("workers see no memory of the parent over sockets")
def test_allocated_inputs_are_read_where_they_lie(model: Neuropod) -> None:
    x = model.allocate("x", (LARGE,))
    for value in (1.0, 2.0, 3.0):
        x[...] = value
        assert model.infer(said("double", np.zeros(0)) | {"x": x})["y"][-1] == 2 * value
        assert model.infer(said("double", np.zeros(0)) | {"x": x[::2]})["y"][-1] == 2 * value
        assert model.infer({**said("write"), "x": x})["y"].tolist() == [0.0]

    assert x[0] == 3.0


def test_allocated_inputs_of_several_kinds(model: Neuropod) -> None:
    assert model.allocate("command", ()).dtype == object
    assert model.allocate("x", (0,)).shape == (0,)
    with pytest.raises(TensorMismatchError, match="one of the inputs"):
        model.allocate("z", ())
    with pytest.raises(TensorMismatchError, match=r"float64\[N\], got the shape \[2, 2\]"):
        model.allocate("x", (2, 2))


def test_an_allocated_input_outlives_the_model(load: Load) -> None:
    model = load()
    x = model.allocate("x", (LARGE,))
    x[...] = 4
    model.close()

    assert x.sum() == 4 * LARGE


def test_results_made_in_place_are_not_copied(model: Neuropod) -> None:
    for count in (3, LARGE, LARGE, LARGE, 20, LARGE):
        x = np.random.default_rng(count).random(count)
        results = [model.infer(said("made", x))["y"] for _ in range(3)]
        assert all(np.array_equal(result, x) for result in results)


@pytest.mark.parametrize("how", ["whole", "slice"])
def test_results_made_in_place_survive_others_that_are_not(how: str, model: Neuropod) -> None:
    x = np.random.default_rng(5).random(LARGE)
    for _ in range(3):
        results = model.infer(said(f"mixed:{how}", x))
        assert np.array_equal(results["y"], x[1:] if how == "slice" else x)
        assert (results["also"] == -1).all()


# -- many at a time


def test_answers_are_not_crossed_among_threads(model: Neuropod) -> None:
    def call(number: int) -> bool:
        count = (number * 7919) % 20000
        y = model.infer(said("double", np.full(count, number)))["y"]
        return y.shape == (count,) and bool((y == 2 * number).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(call, range(800)))


def test_a_model_that_is_not_safe_in_threads_runs_one_call_at_a_time(load: Load) -> None:
    model = load(config={"thread_safe": False})

    with ThreadPoolExecutor(6) as threads:
        running = list(threads.map(lambda _: model.infer(said("settings:running"))["y"][0], range(60)))

    assert set(running) == {1.0}


def test_a_model_that_is_runs_several(load: Load) -> None:
    model = load(slots=4)
    started = time.monotonic()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: model.infer(said("sleep:0.5")), range(4)))

    assert time.monotonic() - started < 1.9


def test_tasks_await_many_calls(model: Neuropod) -> None:
    async def everything() -> list[float]:
        calls = [model.infer_async(said("double", np.full(count, count))) for count in [*range(1, 200), LARGE]]
        return [float(results["y"][0]) for results in await asyncio.gather(*calls)]

    assert asyncio.run(everything()) == [2.0 * count for count in [*range(1, 200), LARGE]]


def test_the_loop_goes_on_while_a_task_waits(model: Neuropod) -> None:
    async def ticks() -> int:
        call = asyncio.create_task(model.infer_async(said("sleep:0.4")))
        count = 0
        while not call.done():
            await asyncio.sleep(0.01)
            count += 1
        return count

    assert asyncio.run(ticks()) > 10


def test_a_cancelled_task_gives_its_slot_back(load: Load) -> None:
    model = load(slots=1)

    async def cancelled() -> list[float]:
        call = asyncio.create_task(model.infer_async(said("sleep:0.3", [1.0])))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return (await model.infer_async(said("copy", [2.0])))["y"].tolist()  # type: ignore[no-any-return]

    assert asyncio.run(cancelled()) == [2.0]
    assert model.infer(said("copy", [3.0]))["y"].tolist() == [3.0]


def test_errors_reach_tasks(model: Neuropod) -> None:
    with pytest.raises(SpecError, match="ä no spec"):
        asyncio.run(model.infer_async(said("raise:spec")))


def test_in_process_models_are_awaited_too(package: Callable[..., Path]) -> None:
    with load_neuropod(package()) as model:
        results = asyncio.run(model.infer_async(said("double", [4.0]), ["y"], timeout_s=5))

    assert results["y"].tolist() == [8.0]


# -- deadlines


def test_a_call_past_its_deadline_raises_and_its_answer_is_dropped(load: Load) -> None:
    model = load(slots=1)

    with pytest.raises(DeadlineError, match=r"did not end within 0.2 s \(its worker was busy with it\)") as late:
        model.infer(said("sleep:0.6", [1.0]), timeout_s=0.2)
    assert isinstance(late.value, TimeoutError)
    with pytest.raises(DeadlineError, match=r"it waited for calls before it"):
        model.infer(said("copy", [2.0]), timeout_s=0.1)

    assert model.infer(said("copy", [3.0]), timeout_s=20)["y"].tolist() == [3.0]


def test_a_late_task_raises_too(load: Load) -> None:
    model = load(slots=1)

    async def late() -> None:
        with pytest.raises(DeadlineError, match="busy"):
            await model.infer_async(said("sleep:0.5", [1.0]), timeout_s=0.1)
        with pytest.raises(DeadlineError, match="waited"):
            await model.infer_async(said("copy", [1.0]), timeout_s=0.1)

    asyncio.run(late())
    assert model.infer(said("copy", [3.0]))["y"].tolist() == [3.0]


def test_a_late_call_for_much_room_leaves_nothing_behind(load: Load) -> None:
    model = load(slots=1, shared_memory_bytes=8 << 20)

    for _ in range(4):
        with pytest.raises(DeadlineError):
            model.infer(said("sleep:0.2", np.zeros(LARGE * 2)), timeout_s=0.05)

    assert model.infer(said("double", np.ones(LARGE)))["y"].sum() == 2 * LARGE


# -- ends


def test_a_closed_model_says_so(load: Load) -> None:
    model = load()
    model.close()
    model.close()

    with pytest.raises(ModelClosedError, match="the model is closed; load it again"):
        model.infer(said("copy"))


def test_closing_ends_calls_that_run(load: Load) -> None:
    model = load()
    raised: list[BaseException] = []

    def call() -> None:
        try:
            model.infer(said("sleep:30"))
        except InferenceError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not model.stats()["running"]:
        time.sleep(0.01)
    model.close()
    thread.join(10)

    assert [type(error) for error in raised] == [ModelClosedError]


def test_what_runs_is_described(model: Neuropod) -> None:
    description = model.description

    assert description["lab"] == "yes"
    assert description["placement"] == "worker"
    assert description["pid"] in description["pids"]  # type: ignore[operator]


def test_calls_are_counted(model: Neuropod) -> None:
    for _ in range(5):
        model.infer(said("copy", [1.0]))
    with pytest.raises(SpecError):
        model.infer(said("raise:spec"))

    stats = model.stats()
    assert (stats["calls"], stats["failed"], stats["running"], stats["waiting"]) == (5, 1, 0, 0)
    assert sum(stats["latency_us"].values()) == 5  # type: ignore[attr-defined]
    assert stats["replicas"][0]["resident_bytes"] > 1 << 20  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"replicas": 0}, "an int from 1 to 1000, not 0"),
        ({"replicas": 99_999}, "an int from 1 to 1000, not 99999"),
        ({"replicas": None}, "an int from 1 to 1000, not None"),
        ({"slots": -1}, "an int from 1 to 100 or None, not -1"),
        ({"slots": 101}, "an int from 1 to 100 or None"),
        ({"shared_memory_bytes": "1"}, "an int from 65536"),
        ({"restart_after_calls": "3"}, "an int from 1"),
        ({"restart_after_calls": 0}, "an int from 1"),
        ({"restart_above_bytes": "3G"}, "an int from 1"),
        ({"threads": 0}, "an int from 1"),
        ({"nice": "x"}, "an int from -40"),
        ({"memory_limit_bytes": 1.5}, "an int from 1"),
        ({"start_timeout_s": 0}, "a number of seconds above 0"),
        ({"kills_late": 1}, "True or False"),
        ({"environment": 5}, "None, 'package', or the path"),
        ({"variables": {"A": 1}}, "a mapping of names to texts"),
        ({"variables": {"A=": "1"}}, "a mapping of names to texts"),
        ({"variables": {"A": "\0"}}, "a mapping of names to texts"),
        ({"gpus": 0}, "None, or for each replica what CUDA_VISIBLE_DEVICES says"),
        ({"gpus": "01"}, "None, or for each replica what CUDA_VISIBLE_DEVICES says"),
        ({"cpus": [0]}, "None, or for each replica a list of CPU numbers"),
        ({"cpus": []}, "None, or for each replica a list of CPU numbers"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], what: str) -> None:
    name = next(iter(settings))
    with pytest.raises(OptionError) as refused:
        Worker(**settings)

    assert str(refused.value).startswith(f"Worker({name}=...) is {what}")
    assert str(refused.value).endswith(f"; pass one, or leave {name} out")


def test_a_cpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match="this machine has CPUs 0 to .*, not 9999 - at cpus; choose among those"):
        Worker(cpus=[[0], [0, 9999]])


@pytest.mark.parametrize("shape", [3, ("a",), (2.7,), (-1,), (1, 2), None], ids=str)
def test_an_input_of_no_such_shape_is_not_allocated(model: Neuropod, shape: Any) -> None:
    with pytest.raises(TensorMismatchError, match="inputs.x"):
        model.allocate("x", shape)


def test_what_a_model_raises_never_ends_its_worker(model: Neuropod) -> None:
    with pytest.raises(InferenceError, match="KeyboardInterrupt: enough"):
        model.infer(said("raise:interrupt"))

    assert model.infer(said("copy", [1.0]))["y"].tolist() == [1.0]
    assert model.stats()["restarts"] == 0


def test_options_that_are_no_data_are_refused(package: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match="only plain data goes to a worker"):
        load_neuropod(package(), placement="worker", options={"flavour": object()})


def test_a_placement_of_no_name_is_refused(package: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match=r"'moon' is no placement - at placement; use one of 'in_process', 'worker'"):
        load_neuropod(package(), placement="moon")
