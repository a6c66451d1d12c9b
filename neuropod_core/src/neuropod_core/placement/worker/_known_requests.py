"""What calls ask for, as the worker keeps it from one call to the next of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuropod_core.backend import Tensors
from neuropod_core.placement.worker._board import TRAY_BYTES
from neuropod_core.placement.worker._layouts import layout_from_json
from neuropod_core.placement.worker._trays import Tray


class KnownRequest:
    """What a `SharedMemoryLine` introduced under a number: the layout of the inputs, and the outputs asked for."""

    __slots__ = ("layout", "outputs", "repeats", "spots", "tensors", "views")

    def __init__(self, message: Mapping[str, Any], memory: Any) -> None:
        self.layout, self.outputs = layout_from_json(message["inputs"]), message["outputs"]
        small = self.layout.fixed and self.layout.nbytes <= TRAY_BYTES
        self.tensors = Tray(self.layout, memory).tensors if small else None
        # Tensors of fixed size come again and again at the same places.
        self.repeats = not any(place.is_text for place in self.layout.places)
        self.spots: list[int] = []
        self.views: Tensors = {}
