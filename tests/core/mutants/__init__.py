"""A sound backend, and what its author could get wrong: each mutant is one mistake, on a platform of its own."""

from __future__ import annotations

from . import guests, lives, owners, values, words
from .sound import KINDS, neuropod_backend, neuropod_contract, write

__all__ = ["KINDS", "guests", "lives", "neuropod_backend", "neuropod_contract", "owners", "values", "words", "write"]
