"""A worker that breaks the protocol on purpose. It shares no code with the real one, so that nothing keeps it polite.

It is run in place of the real worker, with one act named by ``NEUROPOD_HOSTILE``.
"""

import contextlib
import json
import mmap
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKED, ANSWERED, PARENT_SLEEPS = 0, 16, 24
GRANT_BYTES, STATUS, RESULT_LAYOUT, RESULT_MESSAGE_BYTES, RESULT_BYTES, RESULT_IN_TRAY, TAKEN = 38, *range(40, 46)
DONE, FAILED, NEEDS_ROOM = 1, 2, 3
MOST = (1 << 64) - 1
READY = {"stateful": False, "description": {}, "serial": False}


def say(link: socket.socket, message: object) -> None:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    link.sendall(struct.pack(">I", len(body)) + body)


def hear(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, descriptors, *_ = socket.recv_fds(link, 4, 250)
    (size,) = struct.unpack(">I", head)
    return json.loads(link.recv(size, socket.MSG_WAITALL)), list(descriptors)


class Slot:
    """One slot of the board."""

    def __init__(self, memory: mmap.mmap, number: int, slot_bytes: int, tensors: int, bells: list[int]) -> None:
        located = max(64, tensors)
        self.first_place = 48 + 3 * located
        words_bytes = -(-8 * (48 + 6 * located) // 4096) * 4096
        envelope_bytes = -(-((64 << 10) + 1024 * tensors) // 4096) * 4096
        start = number * slot_bytes
        self.words = memoryview(memory)[start : start + words_bytes].cast("Q")
        second = start + words_bytes + envelope_bytes
        self.envelope = memoryview(memory)[second : second + envelope_bytes]
        self.tray = memoryview(memory)[second + envelope_bytes + (64 << 10) :][: 64 << 10]
        self.ring, self.call = bells[1], 0

    def wait(self) -> None:
        while self.words[ASKED] <= self.call or self.words[ASKED] == MOST:
            time.sleep(0.0002)
        self.call = self.words[ASKED]
        self.words[TAKEN] = self.call

    def answer(self, status: int, message: object = None) -> None:
        if message is not None:
            body = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.envelope[: len(body)] = body
            self.words[RESULT_MESSAGE_BYTES] = len(body)
        self.words[STATUS], self.words[ANSWERED] = status, self.call
        with contextlib.suppress(OSError):
            os.write(self.ring, b"\0")


# -- before it is ready


def _descriptors(link: socket.socket) -> None:
    body = json.dumps({"hello": 1}).encode()
    socket.send_fds(link, [struct.pack(">I", len(body)) + body], [0, 1, 2] * 60)
    time.sleep(0.1)
    say(link, {"ready": 7})


def _half(link: socket.socket) -> None:
    link.sendall(struct.pack(">I", 100) + b'{"hello"')
    time.sleep(600)


def _hello_then(*messages: object) -> Callable[[socket.socket], None]:
    def act(link: socket.socket) -> None:
        say(link, {"hello": 1})
        for message in messages:
            say(link, message)

    return act


def _first(*messages: object) -> Callable[[socket.socket], None]:
    def act(link: socket.socket) -> None:
        for message in messages:
            say(link, message)

    return act


STARTS: dict[str, Callable[[socket.socket], object]] = {
    "noise": lambda link: link.sendall(random.Random(1).randbytes(1 << 16)),
    "a length of gigabytes": lambda link: link.sendall(b"\x7f\xff\xff\xff{}"),
    "half a message": _half,
    "nothing": lambda link: time.sleep(600),
    "nested": _first(b'{"hello": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nan": _first(b'{"hello": NaN}'),
    "a key twice": _first(b'{"hello": 1, "hello": 1}'),
    "no object": _first([1, 2]),
    "no utf-8": _first(b'{"hello": "\xff"}'),
    "another message": _first({"ready": READY}),
    "keys of megabytes": _first({"x" * (1 << 20): 1}),
    "a version that is text": _first({"hello": "one"}, {"ready": READY}),
    "a version to come": _first({"hello": 1000}, {"ready": READY}),
    "descriptors": _descriptors,
    "ready is a number": _hello_then({"ready": 7}),
    "ready is empty": _hello_then({"ready": {}}),
    "ready is a list": _hello_then({"ready": []}),
    "ready has wrong types": _hello_then({"ready": {"stateful": "no", "description": 3, "serial": []}}),
    "an error that is a number": _hello_then({"error": 5}),
    "an error with wrong facts": _hello_then({"error": {"type": "WorkerDiedError", "arguments": [1]}}),
    "an error of no class": _hello_then({"error": {"type": "os.system", "arguments": ["true"]}}),
    "an end": lambda link: link.close(),
}


# -- when it serves


def _message(body: object) -> Callable[["Slot", random.Random], None]:
    def act(slot: Slot, chance: random.Random) -> None:
        slot.words[RESULT_LAYOUT], slot.words[RESULT_IN_TRAY] = slot.call, 1
        slot.answer(DONE, body)

    return act


def _results(*places: object, at: tuple[int, int, int] = (0, 0, 0), tray: int = 1) -> Callable[["Slot", Any], None]:
    def act(slot: Slot, chance: random.Random) -> None:
        for number in range(len(places)):
            first = slot.first_place + 3 * number
            slot.words[first], slot.words[first + 1], slot.words[first + 2] = at
        slot.words[RESULT_LAYOUT], slot.words[RESULT_IN_TRAY] = slot.call, tray
        slot.answer(DONE, {"results": list(places), "forget": False})

    return act


def _status(status: int, **words: int) -> Callable[["Slot", Any], None]:
    def act(slot: Slot, chance: random.Random) -> None:
        for name, value in words.items():
            slot.words[globals()[name]] = value
        slot.answer(status)

    return act


def _early(slot: Slot, chance: random.Random) -> None:
    slot.call += 5
    slot.answer(DONE)


def _asked(slot: Slot, chance: random.Random) -> None:
    slot.words[ASKED] = MOST


def _fuzz(slot: Slot, chance: random.Random) -> None:
    """Answer with anything, most of it nearly right."""
    for word in range(40, 46):
        slot.words[word] = chance.choice((0, 1, 2, 3, slot.call, slot.call << 8, chance.randrange(MOST), MOST))
    for word in range(slot.first_place, slot.first_place + 9):
        slot.words[word] = chance.choice((0, 1, 64, 1 << 16, chance.randrange(MOST), MOST))
    length = chance.choice((0, 0, 1, 2, 3, 1 << 62, MOST))
    shape = [chance.choice((0, 1, 2, 3, 1 << 14, 1 << 20, length)) for _ in range(chance.randrange(4))]
    names = [chance.choice(("y", "y", "note", "", "calls")) for _ in range(chance.randrange(4))]
    kinds = ("float64", "float64", "int64", "string", "bool", "bytes", "float16")
    places = [[name, chance.choice(kinds), shape, chance.random() < 0.3] for name in names]
    facts = {"type": chance.choice(("SpecError", "DeadlineError", "x")), "arguments": shape}
    body = json.dumps(chance.choice(({"results": places, "forget": chance.random() < 0.1}, facts))).encode()
    status = chance.choice((DONE, DONE, DONE, FAILED, NEEDS_ROOM, slot.words[STATUS], (slot.call - 1) << 8))
    slot.answer(status, body if chance.random() < 0.8 else None)


def _toggle(slot: Slot, chance: random.Random) -> None:
    """Change words all the time while the parent reads them."""

    def toggle() -> None:
        while True:
            slot.words[chance.randrange(40, 46)] = chance.choice((0, 1, 2, 3, 64, 1 << 20, MOST))

    if slot.call == 1:
        threading.Thread(target=toggle, daemon=True).start()
    slot.answer(DONE, {"results": [["y", "float64", [3], False]], "forget": False})


def _shrink(slot: Slot, chance: random.Random) -> None:
    for descriptor in _memory():
        for nbytes in (0, 1 << 30):
            try:
                os.ftruncate(descriptor, nbytes)
            except PermissionError:
                continue
            os._exit(99)  # It could be done: the test looks for that.
    os._exit(17)


def _memory() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd:neuropod" in str(Path(f"/proc/self/fd/{name}").readlink()):
                found.append(int(name))
    return found


def _flood(slot: Slot, chance: random.Random) -> None:
    while True:
        os.write(chance.choice((1, 2)), b"x" * 60_000 + b"\n" * chance.randrange(2))


def _floods_and_dies(slot: Slot, chance: random.Random) -> None:
    for _ in range(200):
        os.write(2, b"\xff\x00x" * 30_000)
    os._exit(5)


def _children(slot: Slot, chance: random.Random) -> None:
    for _ in range(3):
        if not os.fork():
            time.sleep(600)
    os._exit(6)


def _closes(*descriptors: int) -> Callable[["Slot", Any], None]:
    def act(slot: Slot, chance: random.Random) -> None:
        for descriptor in descriptors or range(3, 100):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    return act


def _everywhere(slot: Slot, chance: random.Random) -> None:
    for other in slots:
        other.call, other.words[TAKEN] = slot.call, slot.call
        other.answer(DONE, {"results": [["y", "float64", [1], False]], "forget": True})


_BIG = 1 << 62
SERVES: dict[str, Callable[["Slot", random.Random], object]] = {
    "no status": _status(0),
    "a status of no meaning": _status(77),
    "the largest status": _status(MOST),
    "a layout nobody knows": _status(5 << 8),
    "a layout in a grant nobody knows": _status((5 << 8) + 128),
    "results without a layout": _status(DONE, RESULT_LAYOUT=9),
    "a message of exabytes": _status(DONE, RESULT_MESSAGE_BYTES=MOST),
    "an error of exabytes": _status(FAILED, RESULT_MESSAGE_BYTES=_BIG),
    "an error without words": _status(FAILED),
    "room for ever": _status(NEEDS_ROOM, RESULT_BYTES=100_000),
    "room of no size for ever": _status(NEEDS_ROOM, RESULT_BYTES=0),
    "room of exabytes": _status(NEEDS_ROOM, RESULT_BYTES=MOST),
    "no json": _message(b"{"),
    "nested json": _message(b'{"results":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    "an answer of nan": _message(b'{"results": NaN}'),
    "an answer with a key twice": _message(b'{"results": [], "results": []}'),
    "digits": _message(b'{"results": ' + b"9" * 60_000 + b"}"),
    "an answer that is noise": _message(random.Random(2).randbytes(1000)),
    "results that are a number": _message({"results": 5}),
    "results that are text": _message({"results": "y"}),
    "results of texts": _message({"results": ["abcd"]}),
    "results of objects": _message({"results": [{"a": 1, "b": 2, "c": 3, "d": 4}]}),
    "results of null": _message({"results": None}),
    "a layout that is short": _results(["y", "float64"]),
    "a negative length": _results(["y", "float64", [-1], False]),
    "a huge length": _results(["y", "float64", [_BIG], False]),
    "a length beyond 64 bits": _results(["y", "float64", [0, 1 << 70], False]),
    "lengths that overflow": _results(["y", "float64", [0, _BIG, _BIG], False]),
    "text that overflows": _results(["y", "string", [0, _BIG, _BIG], False], at=(0, 0, 0)),
    "text of many": _results(["y", "string", [1 << 45], False], at=(0, 0, 64)),
    "a length that is a float": _results(["y", "float64", [1.5], False]),
    "a length that is true": _results(["y", "float64", [True], False]),
    "many dimensions": _results(["y", "float64", [1] * 64, False]),
    "too many dimensions": _results(["y", "float64", [1] * 65, False]),
    "more than the tray": _results(["y", "float64", [1 << 14], False]),
    "a name twice": _results(["y", "float64", [1], False], ["y", "float64", [2], False]),
    "a name that is a number": _results([3, "float64", [1], False]),
    "a type of no name": _results(["y", "float63", [1], False]),
    "a type of bytes": _results(["y", "S4", [1], False]),
    "a type of objects": _results(["y", "O", [1], True], at=(0, 0, 8)),
    "a type that is a list": _results(["y", ["float64"], [1], False]),
    "many results": _results(*([f"y{number}", "int8", [1], False] for number in range(1000))),
    "a place outside": _results(["y", "float64", [2], True], at=(0, 1 << 20, 16)),
    "a place at the end": _results(["y", "float64", [2], True], at=(0, (64 << 10) - 8, 16)),
    "a place of no alignment": _results(["y", "float64", [2], True], at=(0, 3, 16)),
    "a place at the largest offset": _results(["y", "float64", [2], True], at=(MOST, MOST, MOST)),
    "text outside": _results(["y", "string", [2], False], at=(0, 1 << 40, MOST)),
    "text that is too short": _results(["y", "string", [2], False], at=(0, 0, 8)),
    "a place that was not granted": _results(["y", "float64", [2], False], tray=0),
    "never": lambda slot, chance: None,
    "early": _early,
    "another number asked": _asked,
    "everywhere": _everywhere,
    "shrinks": _shrink,
    "floods": _flood,
    "floods and dies": _floods_and_dies,
    "children": _children,
    "closes everything": _closes(),
    "closes its streams": _closes(1, 2),
    "unmaps": lambda slot, chance: os.kill(os.getpid(), 7),
    "talks": lambda slot, chance: say(link, {"segment": 1}),
    "talks noise": lambda slot, chance: link.sendall(random.Random(slot.call).randbytes(5000)),
    "hangs up": lambda slot, chance: link.shutdown(socket.SHUT_RDWR),
    "fuzz": _fuzz,
    "toggles": _toggle,
}

slots: list[Slot] = []
link: socket.socket


def serve(act: Callable[[Slot, random.Random], object], seed: int) -> None:
    """Become ready as a worker does, then act at each call."""
    say(link, {"hello": 1})
    hear(link)
    say(link, {"ready": READY})
    message, descriptors = hear(link)
    order = message["serve"]
    memory = mmap.mmap(descriptors[0], order["nbytes"])
    for number in range(order["slots"]):
        bells = descriptors[1 + 2 * number : 3 + 2 * number]
        slots.append(Slot(memory, number, order["nbytes"] // order["slots"], order["tensors"], bells))

    def run(slot: Slot) -> None:
        chance = random.Random(f"{seed}:{slots.index(slot)}")
        while True:
            slot.wait()
            act(slot, chance)

    for slot in slots:
        threading.Thread(target=run, args=(slot,), daemon=True).start()
    time.sleep(600)


def main(descriptor: int) -> None:
    """Do the act that the environment names; the end of the parent is not waited for."""
    global link  # noqa: PLW0603 - acts use it
    name, _, seed = os.environ["NEUROPOD_HOSTILE"].partition("#")
    link = socket.socket(fileno=descriptor)
    if name in STARTS:
        hear(link)
        STARTS[name](link)
        time.sleep(600)
    hear(link)
    serve(SERVES[name], int(seed or 0))


if __name__ == "__main__":
    main(int(sys.argv[1]))
