"""The results of one slot from the parent's side: the room granted for them, and the answers known from before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from numpy import ndarray

from neuropod_core.backend import Tensors
from neuropod_core.errors import SharedMemoryError, WorkerProtocolError
from neuropod_core.placement.worker._blocks import Block, BlockArray, Lease
from neuropod_core.placement.worker._board import (
    DONE,
    FAILED,
    GRANT_BYTES,
    GRANT_OFFSET,
    GRANT_SEGMENT,
    KNOWN_IN_GRANT,
    KNOWN_IN_TRAY,
    NEEDS_ROOM,
    RESULT_BYTES,
    RESULT_IN_TRAY,
    RESULT_LAYOUT,
    RESULT_MESSAGE_BYTES,
    STATUS,
    TRAY_BYTES,
    Slot,
)
from neuropod_core.placement.worker._connection import OverdueForRoomError
from neuropod_core.placement.worker._frames import parsed
from neuropod_core.placement.worker._known import Answer, Request, read_results
from neuropod_core.placement.worker._layouts import MOST_LAYOUTS, Layout, layout_from_json
from neuropod_core.placement.worker._pool import AT_ONCE, Pool, nothing
from neuropod_core.placement.worker._segments import Segment
from neuropod_core.placement.worker._travel import error_from
from neuropod_core.placement.worker._trays import Where, read_places

Foreseen = tuple[int, BlockArray, Tensors]
"""A status, and the results that it would mean."""


class Results:
    """Grants room for results, and reads what the worker says of them; it believes nothing that cannot be.

    Parameters
    ----------
    slot
        Where it lies on the board.
    pool
        Where results lie that are too large for the tray.
    tell
        Makes a segment known to the worker.

    Attributes
    ----------
    grant
        The room of the call that runs; None where it has the tray only, or where the caller has the results.
    known
        How to take results of which the status says all.
    request
        The call that runs.
    raised
        How many calls were answered by an error.
    """

    def __init__(self, slot: Slot, pool: Pool, tell: Callable[[Segment], None]) -> None:
        self._slot, self._words, self._pool, self._tell = slot, slot.words, pool, tell
        self.grant: Block | None = None
        self.known: dict[int, Callable[[], Tensors]] = {}
        self.request: Request | None = None
        self._answers: dict[int, Answer] = {}
        self._expected: tuple[int, Answer] | None = None  # Results that lay in a grant, with the status that said so.
        self._granted_before: Block | None = None
        self._shelf = pool.shelf()
        self._gave_room = self._refused_room = False
        self.raised = 0

    # -- room

    def grant_room(self, nbytes: int, deadline: float | None, check: Callable[[], None]) -> None:
        """Grant room anew; `check` may end the wait for it."""
        block = self.grant = self._pool.allocate_known(nbytes, deadline, self._tell, for_results=True, check=check)
        self._name_grant(block)

    def grant_again(self, nbytes: int) -> None:
        """Grant as much room as the same call needed before; most often the caller has dropped what lay there.

        None where there is none at once: the call has its inputs already, and must not wait with them for more.
        """
        block = self._shelf.take(nbytes)
        if block is None:
            try:
                self.grant_room(nbytes, AT_ONCE, nothing)
            except (SharedMemoryError, OverdueForRoomError):
                self.grant_none()
        else:
            self.grant = block
            if block is not self._granted_before:
                self._name_grant(block)

    def grant_none(self) -> None:
        """Leave the worker the tray."""
        self._words[GRANT_BYTES], self._granted_before = 0, None

    def give_room(self, deadline: float | None, check: Callable[[], None]) -> None:
        """Grant the room that the worker asks for, once in a call."""
        if self._gave_room:
            raise WorkerProtocolError("a worker that was given room needs room again")
        self._granted_before = None
        self._take_back_grant()
        self.grant_room(self._words[RESULT_BYTES], deadline, check)
        self._gave_room = True

    def refuse_room(self) -> None:
        """Grant none, whatever the worker asks for, once in a call."""
        if self._refused_room:
            raise WorkerProtocolError("a worker that was refused room needs room again")
        self._refused_room, self._granted_before = True, None
        self._words[GRANT_BYTES] = self._words[STATUS] = 0

    def clear(self) -> None:
        """Take back the room of a call that is over."""
        self._gave_room = self._refused_room = False
        self._take_back_grant()

    def close(self) -> None:
        """Keep nothing for the next call, and nothing that leads back here."""
        self._pool.retire(self._shelf)
        self.known.clear()

    def _name_grant(self, block: Block) -> None:
        words, self._granted_before = self._words, block
        words[GRANT_SEGMENT], words[GRANT_OFFSET] = block.segment.number, block.offset
        words[GRANT_BYTES] = block.nbytes

    def _take_back_grant(self) -> None:
        grant, self.grant = self.grant, None
        if grant is not None:
            self._shelf.put(grant)

    # -- results

    def take(self) -> Tensors | None:
        """Give the results; None where the worker needs room for them.

        Raises
        ------
        NeuropodError
            What the worker raised; a `WorkerProtocolError` if what it says cannot be.
        """
        status = self._words[STATUS]
        if (copies := self.known.get(status)) is not None:
            return copies()
        if status == DONE:
            return self._introduced_results()
        if status & KNOWN_IN_GRANT:
            answer = self._answers.get(status >> KNOWN_IN_TRAY)
            if answer is not None:
                return self._granted(answer)
        if status == FAILED:
            self.raised += 1
            raise error_from(parsed(self._message()))
        if status != NEEDS_ROOM:
            raise WorkerProtocolError(f"an answer has no status {status}")
        return None

    def copies_more_than(self, nbytes: int) -> bool:
        """Whether results lie in more memory than that and are to be copied, since callers hold so much already."""
        return self.grant is not None and self.grant.nbytes > nbytes and self._pool.is_crowded_by(self.grant)

    def note_what_is_said_once(self) -> None:
        """Read the layout of results that nobody takes: the worker will not say it again."""
        if self._words[STATUS] == DONE and self._words[RESULT_MESSAGE_BYTES]:
            self._introduced(self._words[RESULT_LAYOUT])

    def _message(self) -> bytes:
        length = self._words[RESULT_MESSAGE_BYTES]
        if length > len(self._slot.result_envelope):
            raise WorkerProtocolError(f"a message of {length} bytes does not fit its envelope")
        return bytes(self._slot.result_envelope[:length])

    def _introduced_results(self) -> Tensors:
        words = self._words
        answer = None if words[RESULT_MESSAGE_BYTES] else self._answers.get(words[RESULT_LAYOUT])
        if answer is None:
            answer = self._introduced(words[RESULT_LAYOUT])
        if words[RESULT_IN_TRAY]:
            if answer.tray is not None:
                return answer.tray.copies()
            return read_results(answer.layout, self._slot.result_tray, self._placed(answer.layout, TRAY_BYTES))
        return self._granted(answer, words[RESULT_LAYOUT])

    def _introduced(self, number: int) -> Answer:
        message = parsed(self._message())
        if message.get("forget") is True:
            self._answers.clear()
            self.known.clear()
        if len(self._answers) > 2 * MOST_LAYOUTS:
            raise WorkerProtocolError("there are too many layouts of results")
        answer = Answer(layout_from_json(message.get("results")), self._slot.result_tray)
        if len(answer.layout.places) > self._slot.shape.located:
            raise WorkerProtocolError(f"{len(answer.layout.places)} results are more than there can be")
        self._answers[number], self._expected = answer, None
        if answer.tray is not None:
            self.known[number << KNOWN_IN_TRAY] = answer.tray.copies
        return answer

    def _placed(self, layout: Layout, room: int) -> Where:
        first = self._slot.shape.result_places
        if layout.nbytes > room:
            raise WorkerProtocolError(f"results of {layout.nbytes} bytes do not lie in {room}")
        where = {} if layout.fixed else read_places(layout, self._words, first, lambda _: room)
        for place in layout.places:
            if place.located and not place.is_text and where[place.name][1] % place.dtype.itemsize:
                raise WorkerProtocolError(f"result {place.name!r} does not begin where its type may")
        if self.request is not None:
            self.request.result_bytes = max([layout.nbytes, *(spot[1] + spot[2] for spot in where.values())])
        return where

    def foreseen(self) -> Foreseen | None:
        """While the worker computes, make the arrays that it will answer with if it answers as it did before."""
        block, expected = self.grant, self._expected
        if expected is None or block is None or not block.lent or expected[1].end > block.nbytes:
            return None
        owner = block.segment.bytes[block.offset : block.offset + block.nbytes].view(BlockArray)
        owner.lease = None  # The line's own, until the answer is there.
        return expected[0], owner, _lying(owner, expected[1])

    def lent(self, foreseen: Foreseen) -> Tensors:
        """Give what was foreseen, now that the answer is there."""
        _, owner, results = foreseen
        grant, self.grant = self.grant, None  # First: who is interrupted must not find it twice.
        owner.lease = Lease(self._shelf, grant)  # type: ignore[arg-type]  # foreseen: there is one
        return results

    def _lent_again(self, answer: Answer) -> Tensors:
        """Lend results that lie where those of the last call lay."""
        block, self.grant = self.grant, None
        if block is None or answer.end > block.nbytes:
            raise WorkerProtocolError("results lie in a place that was not granted")
        if not block.lent:
            self.grant = block
            return self._granted(answer)
        owner = block.segment.bytes[block.offset : block.offset + block.nbytes].view(BlockArray)
        owner.lease = Lease(self._shelf, block)
        return _lying(owner, answer)

    def _granted(self, answer: Answer, number: int = 0) -> Tensors:
        layout = answer.layout
        block, self.grant = self.grant, None
        if block is None:
            raise WorkerProtocolError("results lie in a place that was not granted")
        lends = 4 * layout.content_bytes >= block.nbytes and not self._pool.is_crowded_by(block)
        lease = self._pool.lend(block, self._shelf) if lends else None
        try:
            where = self._placed(layout, block.nbytes)
            if lends and number and answer.remember(where):
                status = (number << KNOWN_IN_TRAY) + KNOWN_IN_GRANT
                self.known[status], self._expected = partial(self._lent_again, answer), (status, answer)
            memory = lease.owner() if lease else block.segment.bytes[block.offset : block.offset + block.nbytes]
            return read_results(layout, memory, where, lends=lends)
        finally:
            if lease is None:
                self._shelf.put(block)


def _lying(owner: BlockArray, answer: Answer) -> Tensors:
    """Give the results of an answer that lie where they lay before."""
    return {name: ndarray(shape, dtype, owner, offset, strides) for name, shape, dtype, offset, strides in answer.spots}
