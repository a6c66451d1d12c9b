"""Configs and manifests that are wrong in every key, in every type, and in their bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

CONFIG: dict[str, Any] = {
    "name": "m",
    "platform": "torchscript",
    "platform_version_semver": ">=1.0 <3",
    "input_spec": [
        {"name": "x", "dtype": "float32", "shape": ["N", 2, None]},
        {"name": "s", "dtype": "string", "shape": []},
    ],
    "output_spec": [{"name": "y", "dtype": "bool", "shape": [None]}],
    "custom_ops": ["lib.so"],
    "input_tensor_device": {"x": "GPU", "s": "CPU"},
    "problem": {
        "name": "p",
        "description": "d",
        "inputs": {"x": {"optional": True, "description": "a", "unit": "m"}},
        "outputs": {"y": {}},
    },
    "unknown": {"kept": [1, 2.5, None]},
}
MANIFEST: dict[str, Any] = {
    "manifest_version": 1,
    "files": {"config.json": sha256(b"a").hexdigest(), "0/data/model.pt": sha256(b"b").hexdigest()},
}

# Written raw where JSON's writer would refuse: each is the text of one value.
VALUES = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "1.5",
    "-0",
    "1e400",
    "1e-400",
    "9" * 19,
    "9" * 400,
    "9" * 5000,
    "NaN",
    "Infinity",
    "-Infinity",
    '""',
    '" "',
    '"a"',
    '"x"',
    '"y"',
    '"N"',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\n"',
    '"../evil"',
    '"/evil"',
    '"a\\\\b"',
    '"C:x"',
    '"' + "a" * 300 + '"',
    '"' + "a" * 100_000 + '"',
    '"float32"',
    '"object"',
    '"O"',
    '"i4,i4"',
    '"(1000,1000)f4"',
    '"float128"',
    '"M8"',
    '"GPU"',
    "[]",
    "[[]]",
    "[null]",
    "[1]",
    "[-1]",
    "[0]",
    "[true]",
    "[1.0]",
    '["a"]',
    '["a", "a"]',
    "[{}]",
    "[" * 40 + "]" * 40,
    "[" + "1," * 100 + "1]",
    "{}",
    '{"a": 1}',
    '{"x": 1}',
    '{"x": null}',
    '{"x": "GPU"}',
    '{"x": "GPU", "s": "TPU"}',
    '{"name": "x"}',
    '{"": ""}',
    '{"a": 1, "a": 1}',
    '{"name": "x", "dtype": "float32", "shape": [1]}',
    '[{"name": "x", "dtype": "float32", "shape": [1]}]',
    '{"name": "x", "dtype": "float32", "shape": [1], "problem": 1}',
    "18446744073709551616",
    '"\ufeff"',
    '"\u202e"',
    "",
    ",",
    "]",
    "}",
    '"',
]


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*above, key))


def _with(document: Any, path: tuple[Any, ...], text: str | None) -> bytes:
    """Write a document with the raw `text` at `path`, or without the key."""
    if not path:
        return (text or "").encode("utf-8", "surrogatepass")
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if text is None:
        del parent[path[-1]]
        return json.dumps(changed).encode()
    parent[path[-1]] = "\x01here\x01"
    return json.dumps(changed).replace('"\\u0001here\\u0001"', text).encode("utf-8", "surrogatepass")


def structured(document: Any) -> Iterator[bytes]:
    """Each place of a document with each value, without its key, and with its key twice."""
    for path in _paths(document):
        for text in VALUES:
            yield _with(document, path, text)
        if path:
            yield _with(document, path, None)


def bombs(document: Any) -> Iterator[bytes]:
    """Documents that are deep, wide, or in another encoding."""
    text = json.dumps(document)
    for depth in (*range(10, 60), *range(900, 1010), 5000, 100_000):
        yield b"[" * depth + b"]" * depth
        yield b'{"a":' * depth + b"1" + b"}" * depth
        yield b'{"name": ' + b"[" * depth + b"]" * depth + b"}"
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7"):
        yield text.encode(encoding)
    keys = ",".join(f'"{index}":0' for index in range(100_000))
    yield f"{{{keys}}}".encode()
    yield f'{{{keys},"99999":0}}'.encode()
    files = ",".join(f'"{index}":"{index:064x}"' for index in range(20_000))
    yield f'{{"manifest_version":1,"files":{{{files}}}}}'.encode()
    yield f'{{"manifest_version":1,"files":{{{files},"19999":"{0:064x}"}}}}'.encode()
    for names in ([f"x{index}" for index in range(20_000)], [f"x{index}" for index in range(20_000)] + ["x19999"]):
        specs = [{"name": name, "dtype": "int8", "shape": []} for name in names]
        yield json.dumps({"name": "m", "platform": "p", "input_spec": specs, "output_spec": []}).encode()
    yield json.dumps({**CONFIG, "custom_ops": [f"lib{index}" for index in range(100_000)]}).encode()
    yield json.dumps({**CONFIG, "input_spec": [{"name": "x", "dtype": "int8", "shape": [1] * 100_000}]}).encode()
    yield b'{"name": "' + b"\\u0041" * 500_000 + b'"}'
    yield b'{"name": ' + b"9" * 1_000_000 + b"}"
    yield b'{"name": 0.' + b"9" * 1_000_000 + b"}"
    yield b" " * 3_000_000 + b"{}"
    yield b"{}" * 100_000


def mutated(document: Any, chance: random.Random) -> bytes:
    """Damage the bytes of a document."""
    data = bytearray(json.dumps(document, indent=chance.choice((None, 4))).encode())
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place] = chance.choice(b'{}[],:"\\0123456789.eE+-nulltrue\xff\x00')
            case 2:
                del data[place : place + chance.choice((1, 2, 20))]
            case 3:
                data[place:place] = data[place : place + chance.choice((1, 5, 50))]
            case _:
                data[place:place] = chance.choice(VALUES).encode("utf-8", "surrogatepass")
    return bytes(data)
