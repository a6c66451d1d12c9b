"""The worker's end of the fast transport: it maps the memory that the parent made."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from neuropod_core.errors import WorkerProtocolError
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._board import Shape, Slot
from neuropod_core.placement.worker._desk import SharedMemoryDesk
from neuropod_core.placement.worker._memory import Segment, adopt_segment
from neuropod_core.placement.worker._served import End, Served
from neuropod_core.placement.worker._spin import may_spin

_SEGMENT_TIMEOUT_S = 10.0


class SharedMemoryEnd(End):
    """A desk for each slot of the board, and the segments that the parent has sent."""

    def __init__(self, order: Mapping[str, Any], descriptors: list[int], served: Served) -> None:
        self._segments: dict[int, Segment] = {}
        self._news = threading.Condition()
        shape, spins = Shape(int(order["tensors"])), may_spin()
        board = adopt_segment(0, descriptors[0], int(order["nbytes"]))
        ends = zip(descriptors[1::2], descriptors[2::2], strict=True)
        self.desks = [
            SharedMemoryDesk(
                Slot(board, shape, number),
                Doorbell(descriptor=heard),
                Doorbell(ringer=rung),
                served,
                segment=self._segment,
                spins=spins,
            )
            for number, (heard, rung) in enumerate(ends)
        ]

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
