"""The parts of the worker placement by themselves: whatever comes, they give what they promise or their own errors."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core.dtypes import DType
from neuropod_core.errors import (
    InferenceError,
    NeuropodError,
    SpecError,
    WorkerDiedError,
    WorkerProtocolError,
)
from neuropod_core.placement.worker import _board as board
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._connection import OverdueError
from neuropod_core.placement.worker._layouts import (
    decode_text,
    encode_text,
    layout_from_json,
    layout_of,
)
from neuropod_core.placement.worker._line import SharedMemoryLine as Line
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._segments import create_segment
from neuropod_core.placement.worker._spin import Spin
from neuropod_core.placement.worker._travel import error_from, facts_of
from neuropod_core.placement.worker._trays import Tray, Written, read_places

MOST = (1 << 64) - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LENGTHS = st.sampled_from([0, 0, 1, 2, 3, 1 << 14, 1 << 31, 1 << 46, 1 << 59, 1 << 62, 1 << 63, 1 << 70, -1])
NAMES = st.sampled_from(["y", "y", "z", "", "ä"]) | TEXT
PLACES = st.lists(
    st.tuples(
        NAMES | PLAIN,
        st.sampled_from([dtype.value for dtype in DType] + ["bytes", "O", "S3", "f8,f8"]) | PLAIN,
        st.lists(LENGTHS | st.integers(0, 4), max_size=4) | st.lists(st.just(1), max_size=70) | PLAIN,
        st.booleans() | PLAIN,
    ).map(list),
    max_size=5,
)


# -- messages


@given(messages=st.lists(st.dictionaries(TEXT, PLAIN, max_size=4), max_size=4), cuts=st.randoms(use_true_random=False))
def test_messages_arrive_as_they_were_sent_however_they_are_cut(messages: list[dict[str, Any]], cuts: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in messages:
            _frames.send(ours, message)
        whole = theirs.recv(1 << 20, socket.MSG_DONTWAIT) if messages else b""
        inbox, found = _frames.Inbox(theirs), []
        while whole:
            count = cuts.randint(1, len(whole))
            ours.send(whole[:count])
            whole = whole[count:]
            found += inbox.messages()

    assert found == messages
    assert not inbox.ended


@given(data=st.binary(max_size=300), prefix=st.sampled_from([b"", b"\0\0\0\x02", b"\0\0\0\x40", b"\xff\xff\xff\xff"]))
def test_noise_is_no_message(data: bytes, prefix: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(prefix + data or b"x")
        try:
            found = _frames.Inbox(theirs).messages()
        except WorkerProtocolError:
            return

    assert all(isinstance(message, dict) for message in found)


@given(data=st.binary(max_size=200) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_what_can_be_parsed_is_an_object(data: bytes) -> None:
    with suppress(WorkerProtocolError):
        assert isinstance(_frames.parsed(data), dict)


# -- errors

ANYTHING = st.recursive(
    PLAIN | st.binary(max_size=9) | st.floats() | st.text(max_size=9) | st.builds(object),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)


class _UnspeakableError(InferenceError):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@given(arguments=st.lists(ANYTHING, max_size=3), kind=st.sampled_from([InferenceError, SpecError, _UnspeakableError]))
def test_every_error_can_travel(arguments: list[Any], kind: type[NeuropodError]) -> None:
    error = kind.__new__(kind)
    error.args = tuple(arguments)
    error.__cause__ = _UnspeakableError("x")

    arrived = error_from(_frames.parsed(json.dumps(facts_of(error)).encode()))

    assert isinstance(arrived, NeuropodError)
    assert isinstance(str(arrived), str)


def test_deep_and_endless_facts_can_travel() -> None:
    endless: list[Any] = []
    endless.append(endless)

    for argument in (endless, 10**5000, [-(10**5000)], json.loads("[" * 200 + "]" * 200)):
        arrived = error_from(_frames.parsed(json.dumps(facts_of(SpecError(argument))).encode()))  # type: ignore[arg-type]
        assert isinstance(arrived, NeuropodError)
        assert "SpecError" in f"{type(arrived).__name__} {arrived}"


@given(
    facts=PLAIN
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from(["SpecError", "WorkerDiedError", "x"]) | PLAIN,
            "arguments": st.lists(PLAIN, max_size=5) | PLAIN,
            "cause": PLAIN,
        }
    )
)
def test_whatever_a_worker_says_of_an_error_becomes_one(facts: object) -> None:
    error = error_from(facts)

    assert isinstance(error, NeuropodError)
    assert len(str(error)) < 1 << 20


# -- layouts


@given(value=PLACES | PLAIN)
def test_what_is_a_layout_can_be_used(value: object) -> None:
    try:
        layout = layout_from_json(value)
    except WorkerProtocolError:
        return

    assert len({place.name for place in layout.places}) == len(layout.places)
    if layout.fixed and layout.nbytes <= board.TRAY_BYTES:
        assert len(Tray(layout, np.zeros(board.TRAY_BYTES, np.uint8)).copies()) == len(layout.places)


def _tensors() -> st.SearchStrategy[dict[str, Any]]:
    numbers = st.builds(
        lambda shape, dtype: np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(dtype),
        st.lists(st.integers(0, 5), max_size=4),
        st.sampled_from(["float32", "int8", "bool", "uint64", "float16"]),
    )
    texts = st.lists(TEXT, max_size=6).map(lambda items: np.array(items, object))
    return st.dictionaries(TEXT, numbers | texts, max_size=5)


@given(tensors=_tensors(), located=st.booleans())
def test_tensors_come_out_of_memory_as_they_went_in(tensors: dict[str, Any], located: bool) -> None:
    layout = layout_of(tensors, set(tensors) if located else ())
    again = layout_from_json(json.loads(json.dumps(layout.to_json())))
    assert again == layout

    where, start = {}, 4096
    memory, words = np.zeros(1 << 16, np.uint8), memoryview(bytearray(8 * 64)).cast("Q")
    for place in layout.places if located else ():
        if not place.is_text:
            where[place.name] = (0, start, place.nbytes)
            place.view(memory, start)[...] = tensors[place.name]
            start += 4096
    Written(layout, tensors, where).write(memory, words, 3)
    spots = read_places(again, words, 3, lambda _: memory.nbytes)

    for place in again.places:
        if place.is_text:
            _, offset, nbytes = spots[place.name]
            assert (
                decode_text(memory[offset : offset + nbytes].tobytes(), place).tolist() == tensors[place.name].tolist()
            )
        else:
            view = place.view(memory, spots[place.name][1] if place.located else None)
            assert np.array_equal(view, tensors[place.name])


@given(data=st.binary(max_size=80), shape=st.lists(LENGTHS, max_size=3))
def test_noise_is_text_or_an_error(data: bytes, shape: list[int]) -> None:
    with suppress(WorkerProtocolError):
        (place,) = layout_from_json([["t", "string", shape, False]]).places
        assert decode_text(data, place).shape == tuple(shape)


@given(text=st.lists(TEXT, max_size=9), bit=st.integers(0, 1 << 20))
def test_text_with_one_bit_changed_is_text_or_an_error(text: list[str], bit: int) -> None:
    array = np.array(text, object)
    data = bytearray(encode_text(array))
    (place,) = layout_of({"t": array}).places
    if data:
        data[bit // 8 % len(data)] ^= 1 << bit % 8
    with suppress(WorkerProtocolError):
        assert all(type(item) is str for item in decode_text(bytes(data), place).tolist())


@given(words=st.lists(st.sampled_from([0, 1, 63, 64, 1 << 14, 1 << 63, MOST]), min_size=15, max_size=15), places=PLACES)
def test_places_lie_inside_or_are_an_error(words: list[int], places: list[Any]) -> None:
    try:
        layout = layout_from_json(places)
        where = read_places(layout, words, 0, lambda _: 1 << 14)
    except WorkerProtocolError:
        return

    assert all(0 <= offset <= offset + nbytes <= 1 << 14 for _, offset, nbytes in where.values())


# -- the board


@pytest.fixture
def line() -> Iterator[tuple[Line, board.Slot, Pool]]:
    shape = board.Shape(2)
    segment, pool = create_segment(0, shape.slot_bytes), Pool(1 << 20)
    slot = board.Slot(segment, shape, 0)
    yield Line(slot, pool, Doorbell(), lambda _: None, spins=False, keeps_order=True), slot, pool
    pool.close()
    segment.close()


def test_who_does_not_look_says_so_beforehand_and_sleeps_through_strokes_that_mean_nothing(
    line: tuple[Line, board.Slot, Pool],
) -> None:
    parent, slot, _ = line
    parent.put({"x": np.zeros(1)}, None)
    parent.bell.ring()  # Left over.

    parent.ask(looks=False)
    assert (slot.words[board.ALONE], slot.words[board.PARENT_SLEEPS], slot.words[board.ASKED]) == (0, 1, 1)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(parent.wait, None, looks=False)
        parent.bell.ring()
        with pytest.raises(NotYet):
            waiting.result(0.05)
        slot.words[board.ANSWERED] = 1
        parent.bell.ring()
        waiting.result(20)

    assert not slot.words[board.PARENT_SLEEPS]


def test_who_sleeps_hears_that_the_worker_is_gone(line: tuple[Line, board.Slot, Pool]) -> None:
    parent, _, _ = line
    gone = WorkerDiedError("lab", "signal 9", (), "call again")
    parent.put({"x": np.zeros(1)}, None)
    parent.ask(looks=False)

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(parent.wait, None, looks=False)
        with pytest.raises(NotYet):
            waiting.result(0.05)
        parent.fail(gone)
        assert waiting.exception(20) is gone
    parent.ask(looks=False)
    with pytest.raises(WorkerDiedError):
        parent.wait(None, looks=False)  # The stroke is gone: it has to be known without.


def test_who_sleeps_until_a_deadline_wakes_up_in_time(line: tuple[Line, board.Slot, Pool]) -> None:
    parent, slot, _ = line
    parent.put({"x": np.zeros(1)}, None)
    parent.ask(looks=False)

    with pytest.raises(OverdueError):
        parent.wait(time.monotonic() + 0.02, looks=False)
    assert not slot.words[board.PARENT_SLEEPS]


def test_looking_in_vain_is_tried_twice_after_each_rest() -> None:
    spin, tries = Spin(allowed=True), []
    for _ in range(3):
        count = 1
        while not spin.looks():
            pass
        spin.miss()
        while spin.looks():
            spin.miss()
            count += 1
        tries.append(count)

    assert tries == [8, 2, 2]


def test_room_is_given_once(line: tuple[Line, board.Slot, Pool]) -> None:
    parent, slot, _ = line
    parent.put({"x": np.zeros(1)}, None)
    for _ in range(2):
        parent.ask(looks=False)
        slot.words[board.STATUS], slot.words[board.RESULT_BYTES] = board.NEEDS_ROOM, 100_000
        slot.words[board.ANSWERED] = parent.call
        if not parent._results._gave_room:
            assert parent.take() is None

    with pytest.raises(WorkerProtocolError, match="needs room again"):
        parent.take()
    assert not parent.rest()  # It is refused, and may drop its results.
    slot.words[board.ANSWERED], slot.words[board.STATUS] = parent.call, board.NEEDS_ROOM
    with pytest.raises(WorkerProtocolError, match="refused room"):
        parent.rest()


@pytest.mark.parametrize("asked", [0, 7, MOST])
def test_the_number_of_a_call_is_the_parents(line: tuple[Line, board.Slot, Pool], asked: int) -> None:
    parent, slot, _ = line
    for _ in range(3):
        parent.put({"x": np.zeros(1)}, None)
        parent.ask(looks=False)
    slot.words[board.ASKED] = asked

    with pytest.raises(WorkerProtocolError, match="call 3 became call"):
        parent.rest()


def _written(chance: random.Random, call: int) -> bytes:
    shape = [chance.choice((0, 1, 2, 3, 1 << 13, 1 << 20, 1 << 62, MOST)) for _ in range(chance.randrange(3))]
    kinds = ("float64", "int8", "string", "bytes", "bool", 3)
    names = [chance.choice(("y", "y", "z", 3)) for _ in range(chance.randrange(4))]
    places = [[name, chance.choice(kinds), shape, chance.choice((True, False, 1))] for name in names]
    message = {"results": chance.choice((places, places, None, call)), "forget": chance.random() < 0.1}
    body = json.dumps(message).encode()
    return body if chance.random() < 0.9 else body[: chance.randrange(len(body))]


@pytest.mark.parametrize("seed", range(8))
def test_any_words_become_results_or_an_error(line: tuple[Line, board.Slot, Pool], seed: int) -> None:
    parent, slot, pool = line
    chance, words = random.Random(seed), slot.words
    outcomes = {"results": 0, "room": 0, "refused": 0}
    for call in range(1, 1500):
        parent.put({"x": np.zeros(chance.choice((1, 9000)))}, None)
        parent.ask(looks=False)
        body = _written(chance, call)
        slot.result_envelope[: len(body)] = body
        slot.result_tray[: 1 << 12] = np.frombuffer(chance.randbytes(1 << 12), np.uint8)
        for word in range(board.STATUS, board.RESULT_IN_TRAY + 1):
            words[word] = chance.choice((0, 1, 2, 3, call, 1 << 63, chance.randrange(1 << 20), MOST))
        words[board.STATUS] = chance.choice((1, 1, 1, 2, 3, call - 1 << 8, (call - 1 << 8) + 128, MOST))
        words[board.RESULT_LAYOUT] = chance.choice((call, call - 1, MOST))
        words[board.RESULT_MESSAGE_BYTES] = chance.choice((len(body), len(body), len(body), 0, MOST))
        for word in range(slot.shape.result_places, slot.shape.result_places + 9):
            words[word] = chance.choice((0, 8, 64, 3, 1 << 13, MOST))
        words[board.ANSWERED] = parent.call
        try:
            results = parent.take(0.0)
        except NeuropodError:
            outcomes["refused"] += 1
        else:
            outcomes["room" if results is None else "results"] += 1
            for array in (results or {}).values():
                assert array.size < 1 << 20
                assert array.flags.aligned
            del results
        parent.clear()
        with pool._lock:
            pool._clear_shelves()
            pool._collect()
        assert pool.used_bytes == 0

    assert min(outcomes.values()) > 20
