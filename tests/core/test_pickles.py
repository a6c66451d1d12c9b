"""Pickles of the original's test data: real ones are read, whatever else there is ends in PackageFormatError."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuropod_core._elements import MalformedError
from neuropod_core._pickles import load
from neuropod_core.errors import PackageFormatError
from neuropod_core.test_data import TestData, decode_pickle

GOLDEN = Path(__file__).parents[1] / "golden" / "pickles"
FILES = sorted(GOLDEN.glob("*.pkl"))
MADE = [path for path in FILES if "_p" in path.name]
SECONDS = 2.0  # of this process, for the machine may be busy

FLOATS = np.array([[1.5, -2.0, 3.25], [4.0, 5.0, 6.0]], np.float32)
TEXTS = np.array([["a", "grüß"], ["c", ""]], dtype=object)
EXPECTED = TestData(
    {
        "x": FLOATS,
        "f": FLOATS,
        "big": FLOATS.astype(np.float64),
        "flag": np.array([True, False]),
        "text": np.array([["a", "b"], ["", "long text"]], dtype=object),
        "uni": np.array(["a", "grüß", "\U0001f600"], dtype=object),
        "obj": TEXTS,
        "objf": TEXTS,
        "bytes": np.array(["ab", "c"], dtype=object),
        "empty": np.zeros((0, 3), np.int8),
        "zero_d": np.array(7, np.uint16),
        "half": FLOATS.astype(np.float16),
    },
    {
        "scalar": np.array(2.5, np.float32),
        "i64": np.arange(3),
        "u8": np.arange(256).astype(np.uint8),
        "strided": FLOATS[:, ::-1],
        "again": FLOATS,
        "nothing": np.array([], dtype=object),
    },
)


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tolist() == array.tolist(), name


def outcome(data: bytes) -> TestData | PackageFormatError:
    """What reading gives, one of the two things that it may give; the time that it takes is checked."""
    begin = time.process_time()
    result = result_or_error(data)
    assert time.process_time() - begin < SECONDS
    return result


def result_or_error(data: bytes) -> TestData | PackageFormatError:
    try:
        return decode_pickle(data, "test_data.pkl")
    except PackageFormatError as error:
        return error if "\n" not in str(error) and len(str(error)) < 600 else pytest.fail(str(error))


def test_corpus_is_present() -> None:
    assert len(FILES) == 19


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.stem)
def test_load_reads_a_pickle_of_every_version(path: Path) -> None:
    found = decode_pickle(path.read_bytes(), path.name)

    assert_same(found.inputs, EXPECTED.inputs)
    assert_same(found.outputs, EXPECTED.outputs)


def test_load_reads_the_original_of_2019() -> None:
    found = decode_pickle((GOLDEN / "original_2019.pkl").read_bytes(), "test_data.pkl")

    assert_same(found.inputs, {name: np.arange(5, dtype=np.float32) for name in "xy"})
    assert_same(found.outputs, {"out": np.arange(5) * 2})


@pytest.mark.parametrize("protocol", range(6))
def test_load_reads_what_this_numpy_writes(protocol: int) -> None:
    content = {"test_input": EXPECTED.inputs, "test_output": OrderedDict(EXPECTED.outputs)}

    found = decode_pickle(pickle.dumps(content, protocol), "test_data.pkl")

    assert_same(found.inputs, EXPECTED.inputs)
    assert_same(found.outputs, EXPECTED.outputs)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [0, -1, 255, 65536, -(2**40), 2**63, 2**64 - 1, True, None, 1.5, -0.0, "", "grüß\n\\", b"", b"\xff" * 300, ()],
)
def test_load_reads_plain_values(value: object, protocol: int) -> None:
    assert load(pickle.dumps({"a": [value, (value,), (value,) * 4]}, protocol)) == {
        "a": [value, (value,), (value,) * 4]
    }


def test_load_makes_arrays_that_are_owned_and_apart() -> None:
    shared = np.arange(4.0)

    found = decode_pickle(
        pickle.dumps({"test_input": {"x": shared, "y": shared}, "test_output": None}), "test_data.pkl"
    )
    found.inputs["x"][0] = 9

    assert found.inputs["x"].flags.owndata
    assert found.inputs["y"].tolist() == [0, 1, 2, 3]
    assert found.outputs == {}


@pytest.mark.parametrize(
    ("value", "dtype", "items"),
    [(3, "int64", 3), (2.5, "float64", 2.5), ([1.0, 2.0], "float64", [1.0, 2.0]), (["a", "b"], "object", ["a", "b"])],
)
def test_load_takes_numbers_texts_and_flat_lists(value: object, dtype: str, items: object) -> None:
    found = decode_pickle(pickle.dumps({"test_input": {}, "test_output": {"y": value}}), "test_data.pkl")

    assert found.outputs["y"].dtype == dtype
    assert found.outputs["y"].tolist() == items


def test_load_reads_python_2_keys_that_are_no_utf_8() -> None:
    data = b"(dp0\nS'test_input'\n(dS'\\xfc'\nI1\nssS'test_output'\nNs."

    assert list(decode_pickle(data, "test_data.pkl").inputs) == ["\xfc"]


class Exploit:
    def __init__(self, function: object, *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch exploited",)),
        (eval, ("open('exploited', 'w')",)),
        (exec, ("open('exploited', 'w')",)),
        (getattr, (dict, "get")),
        (io.open, ("exploited", "w")),
        (np.fromfile, ("/etc/passwd", "u1")),
        (np.memmap, ("exploited", "u1", "w+", 0, 9)),
        (bytearray, (2**40,)),
        (np.ndarray, ((2**40,),)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_load_refuses_what_calls(
    function: object, arguments: tuple[object, ...], protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = np.empty(1, dtype=object)
    inside[0] = Exploit(function, *arguments)

    for value in (inside[0], inside):
        data = pickle.dumps({"test_input": {"x": value}, "test_output": {}}, protocol)
        with pytest.raises(PackageFormatError, match=r"not among the names|is not called in test data") as caught:
            decode_pickle(data, "test_data.pkl")
        assert "REDUCE" in str(caught.value) or "GLOBAL" in str(caught.value)

    assert not list(tmp_path.iterdir())


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
INT64 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8I0\nI1\ntR(I3\nX\x01\x00\x00\x00<NNNI-1\nI-1\nI0\ntb"


def one_array(shape: bytes, kind: bytes, items: bytes, fortran: bytes = b"\x89") -> bytes:
    """A pickle of test data with the one input x, in the state given."""
    note = ARRAY + b"(I1\n" + shape + kind + fortran + items + b"tb"
    return b"(X\x0a\x00\x00\x00test_input(X\x01\x00\x00\x00x" + note + b"dX\x0b\x00\x00\x00test_output}d."


def of_type(text: bytes, order: bytes = b"<") -> bytes:
    return INT64.replace(b"\x02\x00\x00\x00i8", u32(len(text)) + text).replace(b"<", order)


HOSTILE = {
    "empty": (b"", "ends before its STOP"),
    "no stop": (b"N", "ends before its STOP"),
    "stop alone": (b".", "more or less than one value"),
    "two values": (b"NN.", "more or less than one value"),
    "open mark": (b"(N.", "more or less than one value"),
    "trailing bytes": (b"N.N", "1 bytes follow the end"),
    "protocol 6": (b"\x80\x06N.", "protocol 6 is newer than 5"),
    "persistent id line": (b"Pid\n.", "not admitted .at byte 0 of the pickle, code b'P'"),
    "persistent id": (b"NQ.", "not admitted"),
    "extension code": (b"\x82\x01.", "not admitted"),
    "instance": (b"(ios\nsystem\n.", "not admitted"),
    "object": (b"(cos\nsystem\no.", "not among the names"),
    "new object": (b"cnumpy\nndarray\n)\x81.", "not admitted"),
    "out of band buffer": (b"\x97.", "not admitted"),
    "giant int": (b"\x8b" + u32(2**31 - 1) + b"1.", "an int has at most 9 bytes"),
    "long int": (b"\x8a\xff" + b"\xff" * 255 + b".", "an int has at most 9 bytes"),
    "int of many digits": (b"L" + b"9" * 10_000 + b"L\n.", "a line longer than 64 bytes"),
    "int of 60 digits": (b"L" + b"9" * 60 + b"L\n.", "an int has at most 9 bytes"),
    "int that is none": (b"Ix\n.", "ValueError at byte 0 of the pickle, INT"),
    "float that is none": (b"Fx\n.", "ValueError"),
    "bytes beyond the end": (b"B" + u32(2**32 - 1) + b"a.", "4294967295 bytes are asked for, 2 are there"),
    "bytes8 beyond the end": (b"\x8e" + u64(2**64 - 1) + b"a.", "18446744073709551615 bytes are asked for"),
    "bytearray beyond the end": (b"\x96" + u64(2**63) + b"a.", "bytes are asked for"),
    "text beyond the end": (b"\x8d" + u64(2**62) + b"a.", "bytes are asked for"),
    "text that is no UTF-8": (b"\x8c\x01\xff.", "UnicodeDecodeError"),
    "surrogate": (b"\x8c\x03\xed\xa0\x80.", "UnicodeDecodeError"),
    "frame beyond the end": (
        b"\x95" + u64(2**64 - 1) + b"N.",
        "a frame of 18446744073709551615 bytes where 2 are left",
    ),
    "string without quotes": (b"Sabc\n.", "without quotes"),
    "string of half a quote": (b"S'\n.", "without quotes"),
    "bad escape": (b"S'\\q'\n.", "an escape that Python 2 never wrote"),
    "short escape": (b"S'\\x1'\n.", "an escape that Python 2 never wrote"),
    "half a text escape": (b"V\\u12\n.", "UnicodeDecodeError"),
    "unknown memo": (b"h\x05.", "nothing was remembered as 5"),
    "memo of nothing": (b"q\x00.", "nothing is on the stack"),
    "no mark": (b"t.", "there is no mark"),
    "append to nothing": (b"Na.", "nothing is on the stack"),
    "append to a dict": (b"}Na.", "a dict is not what belongs here"),
    "item of a list": (b"]X\x01\x00\x00\x00aNs.", "a list is not what belongs here"),
    "odd items": (b"(Nd.", "a key without a value"),
    "tuple as a key": (b"()Nd.", "a text belongs here, not a tuple"),
    "name as a key": (b"(cnumpy\nndarray\nNd.", "a text belongs here, not a Name"),
    "key twice": (b"(X\x01\x00\x00\x00aNU\x01aNd.", "the key 'a' comes twice"),
    "endless key": (b"(X" + u32(9999) + b"a" * 9999 + b"Nd.", "a name has at most 256 characters"),
    "call of a text": (b"X\x01\x00\x00\x00a)R.", "a str is not what belongs here"),
    "call with a list": (b"c_codecs\nencode\n]R.", "a list is not what belongs here"),
    "call of ndarray": (b"cnumpy\nndarray\n)R.", "is not called"),
    "wrong arguments": (b"c_codecs\nencode\n)R.(((((", "only bytes|bytes follow|is not called with"),
    "too many arguments": (b"c_codecs\nencode\n(NNNNtR.", "not called with these 4 arguments"),
    "another codec": (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00bz2tR.", "only bytes written as Latin-1"),
    "array of no array": (
        b"cnumpy.core.multiarray\n_reconstruct\n(c_codecs\nencode\n)C\x01btR.",
        "only plain NumPy arrays",
    ),
    "state of a dict": (b"}(b.", "there is no|nothing is|not what belongs here"),
    "state of a text": (b"X\x01\x00\x00\x00a)b.", "a str has no state"),
    "nested global": (b"\x8c\x05numpy\x8c\x0clinalg.solve\x93.", "not among the names"),
    "not the dict": (b"].", "a dict with the keys"),
    "no tensors": (b"(X\x0a\x00\x00\x00test_inputI1\nX\x0b\x00\x00\x00test_output}d.", "tensors come in a dict"),
    "size too small": (one_array(b"(I2\nt", INT64, b"C\x08" + b"1" * 8), "takes 16 bytes, 8 are there"),
    "size too large": (one_array(b"(I1\nt", INT64, b"C\x10" + b"1" * 16), "takes 8 bytes, 16 are there"),
    "negative length": (one_array(b"(I-1\nI-1\nt", INT64, b"C\x08" + b"1" * 8), "at least 0"),
    "length of a bool": (one_array(b"(\x88t", INT64, b"C\x08" + b"1" * 8), "is an int, not a bool"),
    "length of a text": (one_array(b"(C\x01at", INT64, b"C\x00"), "is an int, not a bytes"),
    "overflowing shape": (one_array(b"(" + b"\x8a\x05\x00\x00\x00\x00\x01" * 2 + b"t", INT64, b"C\x00"), "no machine"),
    "overflowing empty shape": (
        one_array(b"(I0\n" + b"\x8a\x08" + b"\xff" * 7 + b"\x3f" + b"t", INT64, b"C\x00"),
        "no machine",
    ),
    "33 dimensions": (one_array(b"(" + b"I1\n" * 33 + b"t", INT64, b"C\x08" + b"1" * 8), "at most 32 dimensions"),
    "shape that is none": (one_array(b"N", INT64, b"C\x08" + b"1" * 8), "a shape is a list of lengths"),
    "list of numbers": (one_array(b"(I1\nt", INT64, b"]"), "bytes belong to numbers"),
    "bytes of objects": (one_array(b"(I1\nt", of_type(b"O8", b"|"), b"C\x08" + b"1" * 8), "bytes belong to numbers"),
    "objects in objects": (one_array(b"(I1\nt", of_type(b"O8", b"|"), b"(]l"), "holds texts only, not a list"),
    "too few objects": (one_array(b"(I9\nt", of_type(b"O8", b"|"), b"]"), "takes 9 texts, 0 are there"),
    "a bool of 2": (one_array(b"(I1\nt", of_type(b"b1", b"|"), b"C\x01\x02"), "a byte of 0 or 1, not 2"),
    "complex": (one_array(b"(I1\nt", of_type(b"c8"), b"C\x08" + b"1" * 8), "'c8' is no element type"),
    "time": (one_array(b"(I1\nt", of_type(b"M8"), b"C\x08" + b"1" * 8), "'M8' is no element type"),
    "record": (one_array(b"(I1\nt", of_type(b"V8"), b"C\x08" + b"1" * 8), "'V8' is no element type"),
    "type of commas": (one_array(b"(I1\nt", of_type(b"i4,i4"), b"C\x08" + b"1" * 8), "is no element type"),
    "int of 3 bytes": (one_array(b"(I1\nt", of_type(b"i3"), b"C\x03abc"), "i3 is no element type"),
    "type of another order": (one_array(b"(I1\nt", of_type(b"i8", b"="), b"C\x08" + b"1" * 8), "no state of a plain"),
    "type without state": (one_array(b"(I1\nt", INT64[: INT64.index(b"(I3")], b"C\x08" + b"1" * 8), "state is missing"),
    "text of no width": (one_array(b"(I2147483647\nt", of_type(b"U0"), b"C\x00"), "texts of 0 bytes"),
    "text beyond Unicode": (one_array(b"(I1\nt", of_type(b"U1"), b"C\x04\xff\xff\xff\xff"), "no Unicode"),
    "surrogate in fixed width": (one_array(b"(I1\nt", of_type(b"U1"), b"C\x04\x00\xd8\x00\x00"), "no Unicode"),
    "half a character": (one_array(b"(I1\nt", of_type(b"U1"), b"C\x03abc"), "3 bytes are there"),
    "surrogate in objects": (one_array(b"(I1\nt", of_type(b"O8", b"|"), b"(V\\ud800\nl"), "UTF-8 cannot hold"),
    "array that holds itself": (
        one_array(b"(I1\nt", of_type(b"O8", b"|"), b"]").replace(ARRAY, ARRAY + b"q\x07").replace(b"]tb", b"(h\x07ltb"),
        "holds texts only, not a PickledArray",
    ),
}


@pytest.mark.parametrize(("data", "why"), HOSTILE.values(), ids=HOSTILE)
def test_load_refuses_and_says_why(data: bytes, why: str) -> None:
    with pytest.raises(PackageFormatError, match=why) as caught:
        decode_pickle(data, "package/test_data.pkl")

    assert caught.value.at.startswith("package/test_data.pkl")


MEBI = 2**20
LONG_TEXT = b"X" + u32(MEBI // 2) + b"a" * (MEBI // 2) + b"q\x00"
LONG_BYTES = b"T" + u32(MEBI // 2) + b"a" * (MEBI // 2) + b"q\x00"


def objects_of(item: bytes) -> bytes:
    """Test data of one array whose 200 000 elements are one and the same long thing."""
    return one_array(b"(I200001\nt", of_type(b"O8", b"|"), b"(" + item + b"h\x00" * 200_000 + b"l")


MANY_ARRAYS = b"".join(
    b"X" + u32(6) + b"%06d" % index + ARRAY + b"(I1\n" + b"(I65536\nth\x01\x89h\x00tb" for index in range(4000)
)

BOMBS = {
    "marks": b"(" * MEBI,
    "lists": b"]" * MEBI,
    "dicts": b"}" * MEBI,
    "nones": b"N" * MEBI,
    "memos": b"N" + b"\x94" * MEBI,
    "empty tuples": b")" * MEBI,
    "tuples in tuples": b"N" + b"\x85" * MEBI + b".",
    "tuples of itself": b")q\x00" + b"h\x00h\x00\x86q\x00" * (MEBI // 7) + b".",
    "tuples of itself as a key": b"()q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"l}h\x00Ns.",
    "tuples of itself as a shape": one_array(b"()q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"t", INT64, b"C\x00"),
    "lists in lists": b"]" * 40_000 + b"a" * 39_999 + b".",
    "list of itself": b"]q\x00" + b"h\x00a" * (MEBI // 3) + b".",
    "laughs": b"]q\x00" + b"".join(b"](" + b"h\x00" * 10 + b"eq\x00" for _ in range(40_000)) + b".",
    "text made bytes": LONG_TEXT + b"c_codecs\nencode\nq\x01" + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 30_000,
    "bytes as keys": b"}" + LONG_BYTES + b"NsN" * 9000,
    "bytes as elements": objects_of(LONG_BYTES),
    "text as elements": objects_of(LONG_TEXT),
    "arrays of one buffer": b"(X\x0a\x00\x00\x00test_input("
    + MANY_ARRAYS.replace(b"h\x00tb", LONG_BYTES + b"tb", 1).replace(b"th\x01", b"t" + INT64 + b"q\x01", 1)
    + b"dX\x0b\x00\x00\x00test_output}d.",
    "dicts of one list": b"("
    + b"".join(b"(X\x06\x00\x00\x00%06dNt" % index for index in range(20_000))
    + b"lq\x00ccollections\nOrderedDict\nq\x01"
    + b"h\x01h\x00\x85R" * 20_000,
    "frames": b"\x95" + u64(0) + (b"\x95" + u64(0)) * (MEBI // 9),
    "lines without an end": b"I" + b"1" * MEBI,
    "line of a text without an end": b"(" + b"V" + b"a" * MEBI,
    "short lines": b"I1\n" * (MEBI // 3),
    "many floats": b"G" + b"\x7f\xf8" * 4 + (b"G" + b"\x7f\xf8" * 4) * (MEBI // 9),
    "protocols": b"\x80\x04" * (MEBI // 2) + b"N.",
    "escapes": b"S'" + b"\\x41" * (MEBI // 4) + b"'\n.",
    "backslashes": b"S'" + b"\\" * MEBI + b"'\n.",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_load_refuses_bombs_in_time(data: bytes) -> None:
    assert isinstance(outcome(data), PackageFormatError)


def test_load_of_one_array_under_many_names_takes_little_memory() -> None:
    array = np.zeros(100_000)

    data = pickle.dumps({"test_input": dict.fromkeys(map(str, range(1000)), array), "test_output": {}})

    with pytest.raises(PackageFormatError, match="copied over and over"):
        decode_pickle(data, "test_data.pkl")


def test_load_raises_malformed_error_of_its_own() -> None:
    with pytest.raises(MalformedError, match=r"at byte 1 of the pickle, REDUCE"):
        load(b")R.")


CORPUS = [path.read_bytes() for path in FILES]


CODES = [*b"().0NRbctqhjBCTUXVSIJKMLG}]uasdel", *range(0x80, 0x98)]


def mutated(chance: random.Random) -> bytes:
    """A real pickle with some bytes flipped, cut out, doubled, or taken from another one."""
    data = bytearray(chance.choice(CORPUS))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case 1 if place < len(data):
                data[place] = chance.choice(CODES)
            case 2:
                del data[place : place + chance.choice((1, 1, 4, 40, len(data)))]
            case 3:
                end = place + chance.randrange(60)
                data[place:place] = data[place:end] * chance.choice((1, 1, 30))
            case 4:
                other = chance.choice(CORPUS)
                begin = chance.randrange(len(other))
                data[place:place] = other[begin : begin + chance.randrange(200)]
            case _:
                data[place : place + 4] = u32(chance.choice((0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1)))
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_load_of_a_mutated_pickle_ends_in_a_result_or_our_error(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same mutations in each run

    results = [outcome(mutated(chance)) for _ in range(500)]

    assert sum(isinstance(result, PackageFormatError) for result in results) > 100
    assert sum(isinstance(result, TestData) for result in results) > 10


@given(st.binary(max_size=200))
@example(b"\x80")
@settings(max_examples=500, deadline=None)
def test_load_of_any_bytes_ends_in_our_error(data: bytes) -> None:
    assert isinstance(outcome(data), PackageFormatError)


INSTRUCTIONS = st.sampled_from(
    [
        *(bytes([code]) for code in b"().NRbt}]uasdel\x85\x86\x87\x88\x89\x93\x94"),
        *(b"I1\n", b"K\x01", b"h\x00", b"q\x00", b"X\x01\x00\x00\x00x", b"C\x08abcdefgh", ARRAY, INT64),
        *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n"),
    ]
)


@given(st.lists(INSTRUCTIONS, max_size=40))
@settings(max_examples=1500, deadline=None)
def test_load_of_any_instructions_ends_in_our_error(instructions: list[bytes]) -> None:
    assert isinstance(outcome(b"".join(instructions) + b"."), PackageFormatError)
