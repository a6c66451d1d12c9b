"""Other ways to have an array copied by another process: what the worker placement is held against.

Each is used as well as we know how: the array is pickled out of band or not at all, the other side is up and warm, and
where the memory is shared, the caller reads the result there.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from neuropod_core import Array

__all__ = ["PEERS", "Peer", "event_ping_pong"]

Call = Callable[[Array], Any]
Around = Callable[[], AbstractContextManager[object]]
Peer = Callable[[int], AbstractContextManager[tuple[Call, Around]]]
"""Opens a way for arrays of so many bytes, and gives the call, and what is to be held open around calls."""

_SPAWN = get_context("spawn")
_MINE, _THEIRS = "neuropod-bench-{}-mine", "neuropod-bench-{}-theirs"


@contextmanager
def event_ping_pong() -> Iterator[Callable[[object], Any]]:
    """Wake another process by an ``eventfd``, which wakes this one: no array, no Python beyond that."""
    there, back = os.eventfd(0), os.eventfd(0)

    def call(_: object) -> Any:
        os.eventfd_write(there, 1)
        return os.eventfd_read(back)

    with _served(_pong, DupFd, there, back):
        yield call
    os.close(there)
    os.close(back)


@contextmanager
def _process_pool(nbytes: int) -> Iterator[tuple[Call, Around]]:
    del nbytes
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        yield lambda array: pool.submit(np.copy, array).result(), nullcontext


@contextmanager
def _pipe(nbytes: int) -> Iterator[tuple[Call, Around]]:
    """Pickle protocol 5 with the array's own memory out of band."""
    del nbytes
    mine, theirs = _SPAWN.Pipe()

    def call(array: Array) -> Any:
        _send(mine, array)
        return _receive(mine)

    with mine, _served(_copy_from_pipe, None, theirs):
        yield call, nullcontext


@contextmanager
def _zeromq(nbytes: int) -> Iterator[tuple[Call, Around]]:
    import zmq
    from zmq.utils.garbage import gc as holder_of_sent_messages

    del nbytes
    with tempfile.TemporaryDirectory(prefix="neuropod-bench-") as folder:
        address = f"ipc://{folder}/zmq"
        with zmq.Context() as context, context.socket(zmq.REQ) as client, _served(_copy_from_zeromq, None, address):
            client.connect(address)

            def call(array: Array) -> Any:
                client.send(array, copy=False)
                return np.frombuffer(client.recv(copy=False).buffer, array.dtype)

            yield call, nullcontext
    holder_of_sent_messages.stop()  # A thread, begun by the first large message, which would forbid looking ever after.


@contextmanager
def _iceoryx(nbytes: int, *, looks: bool) -> Iterator[tuple[Call, Around]]:
    ports = _IceoryxPorts(_MINE, _THEIRS, os.getpid(), nbytes, looks=looks)
    held: list[Any] = []

    def call(array: Array) -> Any:
        ports.send(array.view(np.uint8))
        for old in held:
            old.delete()
        held[:] = [ports.receive()]
        return ports.view(held[0]).view(array.dtype)

    with _served(_copy_from_iceoryx, None, os.getpid(), nbytes, looks) as server:
        ports.receive().delete()  # It is there, and has subscribed.
        yield call, partial(_awake, server) if looks else nullcontext


PEERS: dict[str, Peer] = {
    "ProcessPoolExecutor": _process_pool,
    "multiprocessing.Pipe": _pipe,
    "ZeroMQ": _zeromq,
    "iceoryx2, events": partial(_iceoryx, looks=False),
    "iceoryx2, busy": partial(_iceoryx, looks=True),
}

# ---------------------------------------------------------------------------------------------- the other process


@contextmanager
def _served(serve: Callable[..., None], wrap: Callable[[Any], Any] | None, *given: Any) -> Iterator[int]:
    """Have `serve` run in a process that starts from nothing, until the block is left."""
    process = _SPAWN.Process(target=_Serve(serve, given, wrap), daemon=True)
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.kill()
        process.join()


@contextmanager
def _awake(server: int) -> Iterator[None]:
    """Stop a process that never sleeps while others are measured."""
    os.kill(server, signal.SIGCONT)
    try:
        yield
    finally:
        os.kill(server, signal.SIGSTOP)


class _Serve:
    """What the other process runs; descriptors can be passed on only while it is being started."""

    def __init__(self, serve: Callable[..., None], given: tuple[Any, ...], wrap: Callable[[Any], Any] | None) -> None:
        self._serve, self._given, self._wrap = serve, given, wrap

    def __getstate__(self) -> tuple[Any, ...]:
        return self._serve, tuple(map(self._wrap, self._given)) if self._wrap else self._given

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._serve, self._given = state

    def __call__(self) -> None:
        self._serve(*self._given)


def _pong(there: Any, back: Any) -> None:
    mine, theirs = there.detach(), back.detach()
    while True:
        os.eventfd_read(mine)
        os.eventfd_write(theirs, 1)


def _copy_from_pipe(link: Connection) -> None:
    while True:
        _send(link, np.copy(_receive(link)))


def _send(link: Connection, array: Array) -> None:
    buffers: list[pickle.PickleBuffer] = []
    link.send_bytes(pickle.dumps(array, protocol=5, buffer_callback=buffers.append))
    link.send_bytes(buffers[0].raw())


def _receive(link: Connection) -> Any:
    head, body = link.recv_bytes(), link.recv_bytes()
    return pickle.loads(head, buffers=[body])  # noqa: S301 - our own process


def _copy_from_zeromq(address: str) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.REP) as server:
        server.bind(address)
        while True:
            server.send(np.copy(np.frombuffer(server.recv(copy=False).buffer, np.uint8)), copy=False)


def _copy_from_iceoryx(tag: int, nbytes: int, looks: bool) -> None:  # noqa: FBT001 - passed on as it is
    ports = _IceoryxPorts(_THEIRS, _MINE, tag, nbytes, looks=looks)
    ports.send(np.zeros(nbytes, np.uint8))
    while True:
        sample = ports.receive()
        ports.send(ports.view(sample))
        sample.delete()


class _IceoryxPorts:
    """A publisher and a subscriber of bytes, each with an event to wait for."""

    def __init__(self, mine: str, theirs: str, tag: int, nbytes: int, *, looks: bool) -> None:
        import iceoryx2

        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)

        def service(name: str) -> Any:
            return self._node.service_builder(iceoryx2.ServiceName.new(name.format(tag)))

        def bytes_of(name: str) -> Any:
            return service(name).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8]).open_or_create()

        self._looks, self._bytes = looks, nbytes
        self._publisher = bytes_of(mine).publisher_builder().initial_max_slice_len(nbytes).create()
        self._subscriber = bytes_of(theirs).subscriber_builder().create()
        self._notifier = service(mine + "-event").event().open_or_create().notifier_builder().create()
        self._listener = service(theirs + "-event").event().open_or_create().listener_builder().create()

    def send(self, array: Array) -> None:
        sample = self._publisher.loan_slice_uninit(self._bytes)
        np.copyto(self.view(sample), array)
        sample.assume_init().send()
        self._notifier.notify()

    def receive(self) -> Any:
        while (sample := self._subscriber.receive()) is None:
            if not self._looks:
                self._listener.blocking_wait()
        return sample

    def view(self, sample: Any) -> Array:
        return np.frombuffer((ctypes.c_uint8 * self._bytes).from_address(sample.payload_ptr), np.uint8)
