"""Damaged test data, in both of its forms."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from neuropod_core.test_data import TestData, encode

GOLDEN = Path(__file__).parents[2] / "golden" / "pickles"
PICKLES = [path.read_bytes() for path in sorted(GOLDEN.glob("*.pkl"))]
TEXTS = np.array([["a", "gr\u00fc\u00df"], ["", "\U0001f600"]], dtype=object)
SAFETENSORS = [
    encode(
        TestData(
            {"x": np.arange(6.0).reshape(2, 3), "s": TEXTS}, {"b": np.array([True, False]), "h": np.zeros((0, 2), "f2")}
        )
    ),
    encode(TestData({"a": np.array(1, np.int8)}, {"t": np.array([], dtype=object)})),
]
WORDS = [
    "F32",
    "U8",
    "I64",
    "BOOL",
    "input/",
    "output/",
    "offsets/",
    "string[",
    "data_offsets",
    "shape",
    "dtype",
    "2",
    "0",
    "1",
    "[",
]
NUMBERS = ["0", "1", "-1", "8", "4294967296", "9223372036854775808", "1e3", "2.0", "null", "true", '"0"', "[]", "{}"]


def mutated(samples: list[bytes], chance: random.Random) -> bytes:
    """Flip, cut, double, splice, or put another number where one stands."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place : place + 4] = chance.choice((b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0"))
            case 2:
                del data[place : place + chance.choice((1, 3, 40))]
            case 3:
                data[place:place] = data[place : place + chance.choice((1, 20, 200))]
            case 4:
                other = chance.choice(samples)
                begin = chance.randrange(len(other))
                data[place:place] = other[begin : begin + 60]
            case _:
                digits = [at for at, byte in enumerate(data[:600]) if byte in b"0123456789"]
                if digits:
                    at = chance.choice(digits)
                    data[at : at + 1] = chance.choice(NUMBERS).encode()
    return bytes(data)


def rewritten(chance: random.Random) -> bytes:
    """A file of tensors whose header is whole JSON with one number or word changed, its length told right."""
    data = chance.choice(SAFETENSORS)
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode()
    word = chance.choice([word for word in WORDS if word in header])
    changed = header.replace(word, chance.choice([*WORDS, *NUMBERS, ""]), chance.choice((1, 1, 9))).encode()
    return len(changed).to_bytes(8, "little") + changed + data[8 + size :]
