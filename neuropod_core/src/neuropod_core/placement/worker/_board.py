"""The board: a page of words and two trays for each call in flight, in shared memory, with a doorbell on either side.

A slot carries one call at a time. Its words say which call it is and where its tensors lie; small tensors lie in its
trays, messages (layouts and errors, as JSON) in its envelopes. ``ASKED`` and ``ANSWERED`` are written last: who sees
the number of a call there sees all that belongs to it. That holds where stores are seen in the order in which they were
made (x86-64), or after the system call that a doorbell is; see `SPIN_IS_SAFE`.

The side that waits writes 1 into its ``SLEEPS`` word before it goes to sleep; only then does the other one ring. Where
the parent does not look for an answer (``ALONE`` is 0), both write it before they hand the call over, parent before
``ASKED`` and worker before ``ANSWERED``: the other side sees it for certain, and rings once for each call. A side that
looked in vain says so later, and Python has no fence between writing one word and reading another, so it may be missed
by a moment, once: it looks again after `FIRST_NAP_MS`.
"""

from __future__ import annotations

import platform
from typing import Any

from neuropod_core.placement.worker._segments import PAGE_BYTES, Segment, rounded

# Each of the first four has a cache line of its own.
ASKED, WORKER_SLEEPS, ANSWERED, PARENT_SLEEPS = 0, 8, 16, 24
LAYOUT, MESSAGE_BYTES, BLOCK_SEGMENT, BLOCK_OFFSET, GRANT_SEGMENT, GRANT_OFFSET, GRANT_BYTES, ALONE = range(32, 40)
STATUS, RESULT_LAYOUT, RESULT_MESSAGE_BYTES, RESULT_BYTES, RESULT_IN_TRAY, TAKEN = range(40, 46)
WITHDRAWN = 46
"""Number of the last call whose caller waits for it no longer: it need not run, if it does not already."""

PLACES = 48
"""First of the words, three for each tensor (segment, offset, bytes), that say where tensors without a place lie."""

IN_TRAY = 0
"""What `BLOCK_SEGMENT` says where the tensors lie in the slot's own tray; segments count from 1."""

GO_ON = 0
"""What `LAYOUT` says where a call goes on that needed room for its results; layouts count from 1."""

DONE, FAILED, NEEDS_ROOM = 1, 2, 3
"""What `STATUS` says: results are there; an error is; results are, and need a grant of `RESULT_BYTES`."""

KNOWN_IN_TRAY = 8
"""A status of ``number << 8`` says that results of the layout `number`, known from before, lie in the tray."""

KNOWN_IN_GRANT = 128
"""Added to such a status where they lie in the granted room, at the places of the last time."""

TRAY_BYTES = 64 << 10
"""Tensors of a call that together take no more lie in the slot itself."""

FIRST_NAP_MS = 1
SPIN_IS_SAFE = platform.machine().lower() in ("x86_64", "amd64")


class Shape:
    """How large the parts of a slot are, for a model of so many tensors; both sides compute it alike."""

    def __init__(self, tensors: int) -> None:
        self.located = max(64, tensors)
        words = PLACES + 2 * 3 * self.located  # For inputs, then for results.
        self.words_bytes = rounded(8 * words, PAGE_BYTES)
        self.envelope_bytes = rounded((64 << 10) + 1024 * tensors, PAGE_BYTES)
        self.slot_bytes = self.words_bytes + 2 * self.envelope_bytes + 2 * TRAY_BYTES
        self.result_places = PLACES + 3 * self.located


class Slot:
    """One slot of the board, as either side sees it."""

    def __init__(self, board: Segment, shape: Shape, number: int) -> None:
        start, end = number * shape.slot_bytes, (number + 1) * shape.slot_bytes
        memory = memoryview(board.memory)[start:end]
        self.number, self.shape = number, shape
        self.words: Any = memory[: shape.words_bytes].cast("Q")
        first = shape.words_bytes
        self.envelope = memory[first : first + shape.envelope_bytes]
        self.result_envelope = memory[first + shape.envelope_bytes : first + 2 * shape.envelope_bytes]
        trays = start + first + 2 * shape.envelope_bytes
        self.tray: Any = board.bytes[trays : trays + TRAY_BYTES]
        self.result_tray: Any = board.bytes[trays + TRAY_BYTES : trays + 2 * TRAY_BYTES]
