"""The worker's end of the fast transport: it maps the memory that the parent made."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from neuropod_core.errors import WorkerProtocolError
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import SPIN_IS_SAFE, Shape, Slot
from neuropod_core.placement.worker._desk import SharedMemoryDesk
from neuropod_core.placement.worker._segments import Segment, adopt_segment
from neuropod_core.placement.worker._served import Desk, End, Served
from neuropod_core.placement.worker._spin import may_spin
from neuropod_core.placement.worker._turns import Turns

_SEGMENT_TIMEOUT_S = 10.0

TAKES_TURNS = SPIN_IS_SAFE
"""Whether one thread can serve several slots: a stroke of their bell shows the words of one of them, not of all."""


class SharedMemoryEnd(End):
    """Desks for the slots of the board, one for all if they share a bell, and the segments that the parent has sent."""

    def __init__(self, order: Mapping[str, Any], descriptors: list[int], served: Served) -> None:
        self._segments: dict[int, Segment] = {}
        self._news = threading.Condition()
        shape, spins = Shape(int(order["tensors"])), may_spin()
        board = adopt_segment(0, descriptors[0], int(order["nbytes"]))
        if order.get("shares_bell"):
            bells, rings = [Doorbell(descriptor=descriptors[1])] * int(order["slots"]), descriptors[2:]
        else:
            bells, rings = [Doorbell(descriptor=heard) for heard in descriptors[1::2]], descriptors[2::2]
        desks = [
            SharedMemoryDesk(
                Slot(board, shape, number),
                bell,
                Doorbell(ringer=rung),
                served,
                segment=self._segment,
                spins=spins,
                keeps_order=bool(order.get("keeps_order")),
            )
            for number, (bell, rung) in enumerate(zip(bells, rings, strict=True))
        ]
        self.desks: list[Desk] = [Turns(desks, bells[0])] if order.get("shares_bell") else [*desks]

    def hear(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        """Take a segment that is new, or drop one that is gone."""
        with self._news:
            if "segment" in message:
                number = int(message["segment"])
                self._segments[number] = adopt_segment(number, descriptors[0], int(message["nbytes"]))
                self._segments[number].close()  # The mapping stays.
                self._news.notify_all()
            elif "drop" in message:
                self._segments.pop(int(message["drop"]), None)

    def _segment(self, number: int) -> Segment:
        segment = self._segments.get(number)
        if segment is not None:
            return segment
        with self._news:
            if not self._news.wait_for(lambda: number in self._segments, _SEGMENT_TIMEOUT_S):
                raise WorkerProtocolError(f"shared memory {number} never came")
            return self._segments[number]
