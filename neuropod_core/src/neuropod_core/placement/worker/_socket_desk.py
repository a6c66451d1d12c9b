"""The worker's end of the transport for every Unix: reads a call from the socket of its slot, runs it, and answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from neuropod_core.errors import NeuropodError
from neuropod_core.placement.worker._packets import (
    ERROR,
    RESULTS,
    Bounds,
    Incoming,
    Introduction,
    Layouts,
    Outgoing,
    outgoing,
)
from neuropod_core.placement.worker._served import Desk, End, Served, logger, trace_failure
from neuropod_core.placement.worker._travel import fitting_facts


class SocketEnd(End):
    """A desk for each slot, and the sockets that the parent sends for them."""

    desks: list[SocketDesk]

    def __init__(self, order: Mapping[str, Any], descriptors: list[int], served: Served) -> None:
        del descriptors
        bounds = Bounds(int(order["limit_bytes"]), int(order["tensors"]))
        keeps_order = bool(order.get("keeps_order"))
        self.desks = [
            SocketDesk(number, bounds, served, keeps_order=keeps_order) for number in range(int(order["slots"]))
        ]

    def hear(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        """Take the first socket of a slot, or one in place of the last."""
        link = socket.socket(fileno=descriptors[0])
        link.set_inheritable(False)
        self.desks[int(message["slot"])].links.put(link)


class SocketDesk(Desk):
    """Serves one slot.

    Attributes
    ----------
    links
        Sockets to serve, one after another: the parent replaces one on which it left a packet in pieces.
    """

    def __init__(self, number: int, bounds: Bounds, served: Served, *, keeps_order: bool) -> None:
        self.links: SimpleQueue[socket.socket] = SimpleQueue()
        self._number, self._served, self._bounds = number, served, bounds
        self._introduction, self._layouts = Introduction(bounds, keeps_order=keeps_order), Layouts(bounds)

    def serve(self) -> None:
        """Answer calls until the process ends."""
        while True:
            with self.links.get() as link, suppress(EOFError, OSError):
                while True:
                    self._serve_one(link)

    def _serve_one(self, link: socket.socket) -> None:
        call = Incoming(self._layouts)
        while not call.receive(link):
            pass
        answer = self._answer(call)
        while not answer.send(link):
            pass

    def _answer(self, call: Incoming) -> Outgoing:
        try:
            return self._traced(call) if self._served.traces else self._run(call)
        except NeuropodError as error:
            return self._said(call, error)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - said as `Neuropod.infer` says it in process
            return self._said(call, self._served.unforeseen(error))

    def _run(self, call: Incoming) -> Outgoing:
        given = self._served.executor.infer(call.tensors, call.message["outputs"])
        return outgoing(RESULTS, call.call, self._served.shippable(given, self._bounds.tensors), self._introduction)

    def _traced(self, call: Incoming) -> Outgoing:
        started = time.perf_counter()
        try:
            answer = self._run(call)
        except BaseException as error:
            trace_failure(self._number, call.call, started, error)
            raise
        spent_us = (time.perf_counter() - started) * 1e6
        logger.debug("slot %d, call %d: ran in %.1f us", self._number, call.call, spent_us)
        return answer

    def _said(self, call: Incoming, error: NeuropodError) -> Outgoing:
        return Outgoing(ERROR, call.call, fitting_facts(error, self._bounds.message_bytes), [])
