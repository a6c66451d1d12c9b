"""The inputs of one slot from the parent's side: where they lie, and how the worker gets to know of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from neuropod_core.backend import Names, Tensors
from neuropod_core.errors import InferenceError
from neuropod_core.placement.worker._blocks import Block
from neuropod_core.placement.worker._board import (
    BLOCK_OFFSET,
    BLOCK_SEGMENT,
    IN_TRAY,
    LAYOUT,
    MESSAGE_BYTES,
    PLACES,
    TRAY_BYTES,
    Slot,
)
from neuropod_core.placement.worker._known import Request
from neuropod_core.placement.worker._layouts import MOST_LAYOUTS, Layout, facts_of, layout_of, orders_of
from neuropod_core.placement.worker._pool import Pool
from neuropod_core.placement.worker._segments import Segment
from neuropod_core.placement.worker._trays import Where, Written

if TYPE_CHECKING:
    from neuropod_core.backend import Array


class Inputs:
    """Lays inputs into the tray, or into a block of the pool, and introduces their layout once.

    Parameters
    ----------
    slot
        Where it lies on the board.
    pool
        Where inputs lie that are too large for the tray.
    tell
        Makes a segment known to the worker.
    keeps_order
        Whether the worker knows of tensors in another order than the usual one.

    Attributes
    ----------
    request
        The call that was put last; None if nobody knows what the words say.
    kept
        What must live while the worker may read it.
    """

    def __init__(self, slot: Slot, pool: Pool, tell: Callable[[Segment], None], *, keeps_order: bool) -> None:
        self._slot, self._words, self._pool, self._tell = slot, slot.words, pool, tell
        self._keeps_order, self._shelf = keeps_order, pool.shelf()
        self.request: Request | None = None
        self.kept: object = None
        self._requests: dict[Any, Request] = {}
        self._blocks: list[Block] = []
        self._fresh: object = None  # Key of a layout that the worker has not been asked with yet.
        self._forgets = False  # Whether it has not been told yet to forget those before.
        self._numbers = count(1)

    def put(self, arrays: Tensors, outputs: Names, deadline: float | None, check: Callable[[], None]) -> Request:
        """Lay down the inputs of a call that does not come again as it was; `check` may end the wait for room."""
        outputs = None if outputs is None else tuple(outputs)
        where = self._where(arrays)
        self.kept = arrays if where else None  # They must not go back to the pool while the worker reads them.
        orders = orders_of(arrays, keeps_order=self._keeps_order)
        key = (outputs, *facts_of(arrays, where, orders))
        request = self._requests.get(key)
        if request is None:
            request = self._introduced(layout_of(arrays, where, orders), outputs)
            self._requests[key], self._fresh = request, key
        else:
            self._words[MESSAGE_BYTES] = 0
        written = Written(request.layout, arrays, where)
        self._words[LAYOUT] = request.number
        written.write(self._room_for(written.nbytes, deadline, check), self._words, PLACES)
        if where and not written.nbytes:
            request.remember(arrays, where, self._name_again)
        elif self._blocks and request.layout.fixed:
            request.settle(self._blocks[0], self._shelf, self._pool)
            self.request, request.held = request, True
            del self._blocks[:]  # No call: nothing interrupts between this and the line before it.
        self.request = request
        return request

    def note_asked(self) -> None:
        """Know that the worker sees what was introduced."""
        self._fresh, self._forgets = None, False

    @property
    def are_news(self) -> bool:
        """Whether the worker has not been asked with inputs of this layout yet."""
        return self._fresh is not None

    def give_back(self) -> None:
        """Let others have the room of the inputs; the worker is done with them."""
        request = self.request
        if request is not None and request.held:
            request.held = False
            self._shelf.put(request.block)  # type: ignore[arg-type]  # held: there is one
        while self._blocks:  # One by one: who is interrupted clears once more.
            self._pool.give_back(self._blocks.pop())

    def clear(self) -> None:
        """Let go of everything that the call used."""
        self.kept = None
        self.give_back()
        if self._fresh is not None:
            self._requests.pop(self._fresh, None)
            self.request = self._fresh = None

    def close(self) -> None:
        """Keep nothing for the next call."""
        self._pool.retire(self._shelf)
        for request in list(self._requests.values()):
            request.forget()
        self._requests.clear()

    def _where(self, arrays: Tensors) -> Where:
        """Find the arrays that lie in shared memory already, where that saves a copy worth saving."""
        where: Where = {}
        for name, array in arrays.items():
            spot = self._pool.locate(array) if array.nbytes > TRAY_BYTES else None
            if spot is not None:
                where[name] = (*spot, array.nbytes)
                self._tell(self._pool.segments[spot[0]])
        return where

    def _name_again(self, number: int, array: Array) -> bool:
        """Say where the worker finds another input of the same layout; False if it does not lie in shared memory."""
        spot = self._pool.locate(array)
        if spot is None:
            return False
        self._tell(self._pool.segments[spot[0]])
        words, first = self._words, PLACES + 3 * number
        words[first], words[first + 1] = spot
        return True

    def _introduced(self, layout: Layout, outputs: Names) -> Request:
        """Tell the worker about a layout that it does not know."""
        if len(layout.places) > self._slot.shape.located:
            raise InferenceError(f"a call of {len(layout.places)} tensors is more than the problem has")
        if len(self._requests) > MOST_LAYOUTS:
            self._forgets = True
            self._requests.clear()
        names = None if outputs is None else list(outputs)
        message = {"inputs": layout.to_json(), "outputs": names, "forget": self._forgets}
        body = json.dumps(message).encode()
        if len(body) > len(self._slot.envelope):
            raise InferenceError(f"the names and shapes of a call take {len(body)} bytes: too many")
        self._slot.envelope[: len(body)] = body
        self._words[MESSAGE_BYTES] = len(body)
        return Request(next(self._numbers), layout, outputs, self._slot.tray)

    def _room_for(self, nbytes: int, deadline: float | None, check: Callable[[], None]) -> Any:
        if nbytes <= TRAY_BYTES:
            self._words[BLOCK_SEGMENT] = IN_TRAY
            return self._slot.tray
        block = self._shelf.take(nbytes) or self._pool.allocate_known(nbytes, deadline, self._tell, check=check)
        self._blocks.append(block)
        self._words[BLOCK_SEGMENT], self._words[BLOCK_OFFSET] = block.segment.number, block.offset
        return block.segment.bytes[block.offset : block.offset + block.nbytes]
