"""Test data: what is written is read back, by us and by the safetensors library; nothing else is believed."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuropod_core.dtypes import DType
from neuropod_core.errors import PackageError, PackageFormatError, PackageLimitError, PackagingError
from neuropod_core.test_data import TestData, decode, encode

AT = "package/test_data.safetensors"
NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        if array.dtype == object:
            assert got[name].tolist() == array.tolist(), name
        else:
            assert got[name].tobytes() == array.tobytes(), name  # NaNs too.


def texts(*items: str) -> np.ndarray:
    return np.array(items, dtype=object)


# --------------------------------------------------------------------------------------------------------- round trips


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(list(DType)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if dtype is DType.STRING:
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
        return draw(hnp.arrays(object, shape, elements=text))
    bits = draw(hnp.arrays(f"u{dtype.itemsize}", shape))
    array = (bits & np.uint8(1) if dtype is DType.BOOL else bits).view(dtype.numpy)
    return draw(st.sampled_from([array, np.asfortranarray(array), array[::-1] if array.ndim else array]))


NAMES = st.text(min_size=1, max_size=8).filter(str.isprintable)
TEST_DATA = st.builds(TestData, *[st.dictionaries(NAMES, arrays(), max_size=4)] * 2)


@given(TEST_DATA)
@settings(deadline=None, max_examples=300)
def test_decode_gives_what_encode_was_given(test_data: TestData) -> None:
    data = encode(test_data)
    found = decode(data, AT)

    assert_same(found.inputs, test_data.inputs)
    assert_same(found.outputs, test_data.outputs)
    assert encode(found) == data


@given(TEST_DATA)
@settings(deadline=None, max_examples=200)
def test_encode_is_read_by_the_safetensors_library(test_data: TestData) -> None:
    names = [f"input/{name}" for name in test_data.inputs] + [f"output/{name}" for name in test_data.outputs]

    read: Any = safetensors.deserialize  # It ships no annotations.
    tensors = dict(read(encode(test_data)))

    assert {name for name in tensors if not name.startswith("offsets/")} == set(names)
    for name, array in zip(names, [*test_data.inputs.values(), *test_data.outputs.values()], strict=True):
        if array.dtype == object:
            assert bytes(tensors[name]["data"]) == "".join(array.ravel().tolist()).encode()
        else:
            assert bytes(tensors[name]["data"]) == array.tobytes()
            assert tensors[name]["shape"] == list(array.shape)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_decode_reads_what_the_safetensors_library_writes(dtype: DType) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.arange(0), "c": np.array(1)}
    typed = {name: array.astype(dtype.numpy) for name, array in arrays.items()}

    found = decode(
        safetensors.numpy.save({f"input/{name}": array for name, array in typed.items()}, {"format": "np"}), AT
    )

    assert_same(found.inputs, typed)


def test_encode_depends_on_the_content_alone() -> None:
    one = {"x": np.arange(6.0).reshape(2, 3), "a": texts("ä", ""), "flag": np.array(1, bool)}
    other = {"flag": np.array([True])[0], "a": np.array(["ä", ""]), "x": np.asfortranarray(one["x"]).astype(">f8")}

    assert encode(TestData(one, {})) == encode(TestData(other, {}))


def test_encode_keeps_this_layout() -> None:
    data = encode(TestData({"x": np.array([1, 2], np.int16)}, {"text": texts("ä", "b")}))

    header = {
        "__metadata__": {"output/text": "string[2]"},
        "offsets/output/text": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
        "input/x": {"dtype": "I16", "shape": [2], "data_offsets": [16, 20]},
        "output/text": {"dtype": "U8", "shape": [3], "data_offsets": [20, 23]},
    }
    written = json.dumps(header, separators=(",", ":"))
    assert data[8:].startswith(written.encode())
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert data.endswith(np.array([2, 3], "<i8").tobytes() + b"\x01\x00\x02\x00" + "äb".encode())


def test_decode_gives_arrays_that_are_owned_and_writable() -> None:
    found = decode(encode(TestData({"x": np.zeros(3), "s": texts("a")}, {"y": np.zeros(())})), AT)

    for array in (*found.inputs.values(), *found.outputs.values()):
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_decode_takes_a_view_of_memory() -> None:
    data = encode(TestData({"x": np.arange(3)}, {}))

    assert decode(memoryview(b"..." + data)[3:], AT).inputs["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.array([1j]), r"complex128\[1\] is no element type of a package"),
        (np.array(["2020-01-01"], "M8[D]"), "is no element type of a package"),
        (np.array([None]), "not every element is a text"),
        (texts("\ud800"), "not every element is a text that UTF-8 can hold"),
        (np.array([b"\xff"]), "not every element is a text"),
        (np.zeros(1, ml_dtypes.float8_e4m3fn), "is no element type of a package"),
    ],
)
def test_encode_refuses_what_a_package_cannot_hold(array: np.ndarray, why: str) -> None:
    with pytest.raises(PackagingError, match=why) as caught:
        encode(TestData({"x": array}, {}))

    assert caught.value.at == "test data, input/x"


@pytest.mark.parametrize("name", ["", "\n", "a" * 257, "\ud800", 1])
def test_encode_refuses_names_that_no_spec_has(name: str) -> None:
    with pytest.raises(PackagingError, match="the name of a tensor is a printable text"):
        encode(TestData({}, {name: np.zeros(1)}))


def test_encode_refuses_a_header_that_nobody_reads() -> None:
    with pytest.raises(PackagingError, match="a header has at most 1048576 bytes"):
        encode(TestData({f"{index:0250}": np.zeros(1) for index in range(4000)}, {}))


# -------------------------------------------------------------------------------------------------------- hostile files


def file(header: object, buffer: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + buffer


def one(
    dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4), buffer: bytes = b"1234", **more: Any
) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}
    return file({"input/x": entry}, buffer)


def strings(shape: str, ends: list[int], text: bytes, **changes: Any) -> bytes:
    offsets = {"dtype": "I64", "shape": [len(ends)], "data_offsets": [0, 8 * len(ends)]}
    content = {"dtype": "U8", "shape": [len(text)], "data_offsets": [8 * len(ends), 8 * len(ends) + len(text)]}
    header = {"__metadata__": {"input/s": shape}, "offsets/input/s": offsets, "input/s": content}
    return file({**header, **changes}, np.array(ends, "<i8").tobytes() + text)


def pair(first: tuple[int, int], second: tuple[int, int], buffer: bytes) -> bytes:
    entries = [{"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]} for begin, end in (first, second)]
    return file({"input/a": entries[0], "input/b": entries[1]}, buffer)


FORMAT = {
    "nothing": (b"", "has at least 8 bytes, not 0"),
    "seven bytes": (b"1234567", "has at least 8 bytes, not 7"),
    "no header": (bytes(8), "is no JSON"),
    "header beyond the end": (file({}, length=3), "the header claims 3 bytes, 2 follow"),
    "giant header": (file({}, length=2**64 - 1), "the header claims 18446744073709551615 bytes, 2 follow"),
    "long header": (file(b" " * (2**20 + 1)), "1048577 follow and at most 1048576 are read"),
    "truncated JSON": (file(b'{"input/x":'), "is no JSON"),
    "two values": (file(b"{}{}"), "is no JSON"),
    "byte order mark": (file(b"\xef\xbb\xbf{}"), "is no JSON"),
    "UTF-16": (file("{}".encode("utf-16")), "is no JSON"),
    "no UTF-8": (file(b'{"\xff":1}'), "is no JSON"),
    "not a number": (file(b'{"input/x":NaN}'), "NaN is no JSON"),
    "an array": (file([]), "expected a JSON object"),
    "key twice": (file(b'{"input/x":1,"input/x":1}'), "'input/x' comes twice"),
    "key twice inside": (file(b'{"input/x":{"dtype":"U8","dtype":"U8"}}'), "'dtype' comes twice"),
    "number of many digits": (file(b'{"input/x":' + b"9" * 100_000 + b"}"), "is no JSON|object with the keys"),
    "metadata of a list": (file({"__metadata__": []}), "__metadata__ is an object of texts"),
    "metadata of numbers": (file({"__metadata__": {"a": 1}}), "__metadata__ is an object of texts"),
    "a surrogate": (file(b'{"input/\\ud800":1}'), "is no text that UTF-8 can hold"),
    "no side": (file({"x": {}}), "named input/NAME or output/NAME"),
    "no name": (file({"input/": {}}), "named input/NAME or output/NAME"),
    "a name of lines": (file({"input/a\nb": {}}), "its name is printable"),
    "a long name": (file({"input/" + "a" * 257: {}}), "its name is printable"),
    "a number for a tensor": (file({"input/x": 1}), "an object with the keys"),
    "no keys": (file({"input/x": {}}), "an object with the keys"),
    "another key": (one(more=1), "an object with the keys"),
    "unknown type": (one("F8_E4M3"), "an element type is one of BOOL, .*, not 'F8_E4M3'"),
    "type of a number": (one(1), "an element type is one of"),
    "type of a list": (one(["U8"]), r"an element type is one of .*, not \['U8'\]"),
    "shape of a number": (one(shape=4), "a shape is a list of lengths, not a int"),
    "shape of floats": (one(shape=[4.0]), "a length in a shape is an int, not a float"),
    "shape of bools": (one(shape=[True, 4]), "a length in a shape is an int, not a bool"),
    "negative shape": (one(shape=[-2, -2]), "at least 0 and below"),
    "giant length": (one(shape=[2**62]), "at least 0 and below"),
    "overflowing shape": (one(shape=[2**31, 2**31, 4]), "no machine can address"),
    "overflowing to 4": (one(shape=[2**32 + 2, 2**32 + 2]), "no machine can address"),
    "overflowing empty shape": (one(shape=[0, 2**61, 2**61], offsets=[0, 0], buffer=b""), "no machine can address"),
    "33 dimensions": (one(shape=[1] * 33), "at most 32 dimensions"),
    "shape too small": (one(shape=[3]), r"uint8\[3\] takes 3 bytes, 4 are there"),
    "shape too large": (one(shape=[5]), r"uint8\[5\] takes 5 bytes, 4 are there"),
    "offsets of one": (one(offsets=[0]), "data_offsets are two ints"),
    "offsets of three": (one(offsets=[0, 4, 4]), "data_offsets are two ints"),
    "offsets of texts": (one(offsets=["0", "4"]), "data_offsets are two ints"),
    "offsets of bools": (one(offsets=[False, 4]), "data_offsets are two ints"),
    "offsets of floats": (one(offsets=[0.0, 4.0]), "data_offsets are two ints"),
    "offsets of null": (one(offsets=None), "data_offsets are two ints"),
    "negative offset": (one(offsets=[-4, 0]), "data_offsets are two ints, neither negative"),
    "falling offsets": (one(offsets=[4, 0]), "data_offsets are two ints, neither negative nor falling"),
    "giant offsets": (one(offsets=[0, 2**64]), "data_offsets are two ints"),
    "offsets beyond the end": (one(shape=[5], offsets=[0, 5]), "lies at bytes 0 to 5, expected from 0 and within 4"),
    "a gap at the start": (one(shape=[3], offsets=[1, 4]), "lies at bytes 1 to 4, expected from 0"),
    "trailing bytes": (one(buffer=b"12345"), "the tensors end at byte 4, the file at byte 5"),
    "bytes of no tensor": (file({}, b"1"), "the tensors end at byte 0, the file at byte 1"),
    "overlap": (pair((0, 3), (2, 4), b"1234"), "lies at bytes 2 to 4, expected from 3"),
    "the same bytes": (pair((0, 4), (0, 4), b"1234"), "lies at bytes 0 to 4, expected from 4"),
    "a gap": (pair((0, 1), (2, 4), b"1234"), "lies at bytes 2 to 4, expected from 1"),
    "a bool of 2": (one("BOOL"), "a bool is a byte of 0 or 1, not 52"),
    "strings without a shape": (strings("", [1], b"a"), r"like 'string\[2, 3\]', not ''"),
    "strings of another type": (strings("float32[1]", [1], b"a"), "the metadata of strings is like"),
    "strings of a negative shape": (strings("string[-1]", [1], b"a"), "the metadata of strings is like"),
    "strings of endless shape": (strings("string[" + "9" * 1000 + "]", [1], b"a"), "the metadata of strings is like"),
    "strings of other digits": (strings("string[\u0661]", [1], b"a"), "the metadata of strings is like"),
    "strings of a giant shape": (strings("string[4000000000, 4000000000]", [1], b"a"), "no machine can address"),
    "strings of another count": (strings("string[2]", [1], b"a"), r"string\[2\] has 2 offsets of I64, not int64\[1\]"),
    "strings that fall": (strings("string[2]", [1, 0], b""), "the offsets of strings rise"),
    "strings that start below": (strings("string[2]", [-1, 1], b"a"), "the offsets of strings rise"),
    "strings that end early": (strings("string[1]", [0], b"a"), "the offsets of strings rise from 0 to 1"),
    "strings that end late": (strings("string[1]", [2], b"a"), "the offsets of strings rise from 0 to 1"),
    "strings that wrap": (strings("string[2]", [-(2**63), 1], b"a"), "the offsets of strings rise"),
    "strings of no UTF-8": (strings("string[1]", [1], b"\xff"), "a string is no UTF-8: invalid start byte"),
    "strings cut apart": (strings("string[2]", [1, 2], "ä".encode()), "a string is no UTF-8: unexpected end"),
    "strings of a surrogate": (strings("string[1]", [3], b"\xed\xa0\x80"), "a string is no UTF-8"),
    "strings of I8": (
        strings("string[1]", [1], b"a", **{"input/s": {"dtype": "I8", "shape": [1], "data_offsets": [8, 9]}}),
        "the bytes of strings are one-dimensional U8",
    ),
    "strings of two dimensions": (
        strings("string[1]", [1], b"a", **{"input/s": {"dtype": "U8", "shape": [1, 1], "data_offsets": [8, 9]}}),
        "the bytes of strings are one-dimensional U8",
    ),
    "offsets of no strings": (
        file({"offsets/input/s": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}}),
        "'offsets/input/s' belongs to no tensor",
    ),
    "offsets of offsets": (
        file({"offsets/offsets/input/s": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}}),
        "named input/NAME or output/NAME",
    ),
}


@pytest.mark.parametrize(("data", "why"), FORMAT.values(), ids=FORMAT)
def test_decode_refuses_and_says_why(data: bytes, why: str) -> None:
    with pytest.raises(PackageFormatError, match=why) as caught:
        decode(data, AT)

    assert caught.value.at.startswith(AT)
    assert "\n" not in str(caught.value)


def test_decode_refuses_a_shape_of_strings_without_offsets() -> None:
    data = file(
        {"__metadata__": {"input/x": "string[1]"}, "input/x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},
        b"a",
    )

    with pytest.raises(PackageFormatError, match="strings without their offsets"):
        decode(data, AT)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [40, 500, 900, 100_000])
def test_decode_refuses_depth(opening: bytes, depth: int) -> None:
    with pytest.raises(PackageError) as caught:
        decode(file(b'{"input/x":' + opening * depth + b"1" + {b"[": b"]"}.get(opening, b"}") * depth + b"}"), AT)

    assert isinstance(caught.value, PackageLimitError | PackageFormatError)


@given(st.data())
@settings(deadline=None, max_examples=1000)
def test_decode_of_a_mutated_file_ends_in_a_result_or_our_error(draw: st.DataObject) -> None:
    data = bytearray(SAMPLE)
    for _ in range(draw.draw(st.integers(1, 3))):
        place = draw.draw(st.integers(0, len(data) - 1))
        data[place : place + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))

    begin = time.process_time()
    try:
        found = decode(bytes(data), AT)
    except PackageError:
        pass
    else:
        assert decode(encode(found), AT).inputs.keys() == found.inputs.keys()
    assert time.process_time() - begin < 1


SAMPLE = encode(
    TestData(
        {"x": np.arange(3.0), "s": texts("a", "ü", "")},
        {"b": np.array([True, False]), "h": np.zeros((0, 2), np.float16)},
    )
)


def test_decode_of_many_strings_takes_a_small_multiple_of_the_file() -> None:
    data = encode(TestData({"s": np.array(["ü\u4e00"] * 100_000, dtype=object)}, {}))

    tracemalloc.start()
    decode(data, AT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 13 * len(data)
