from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import Result

from neuropod_core import Problem
from neuropod_core.cli._options import named_values

Write = Callable[..., Path]
Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def package(write: Write) -> Path:
    return write()


def values(result: Result) -> Any:
    return json.loads(result.stdout)["outputs"]["y"]["values"]


def test_run_reads_json_from_stdin(package: Path, invoke: Invoke) -> None:
    result = invoke("run", package, "--inputs", "-", "--json", stdin='{"x": [1, 2.5, "NaN"]}')

    assert json.loads(result.stdout)["outputs"] == {
        "y": {"dtype": "float32", "shape": [3], "values": [2.0, 5.0, "NaN"]}
    }


def test_run_reads_what_it_writes(package: Path, invoke: Invoke) -> None:
    first = invoke("run", package, "--inputs", "-", "--json", stdin='{"x": [1, Infinity]}')
    again = json.dumps({"x": json.loads(first.stdout)["outputs"]["y"]})

    assert values(invoke("run", package, "--inputs", "-", "--json", stdin=again)) == [4.0, "Infinity"]


def test_run_reads_and_saves_npz(package: Path, invoke: Invoke, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([1, 2], np.float32))

    result = invoke("run", package, "--inputs", tmp_path / "in.npz", "--save", tmp_path / "out.npz")

    assert result.stdout == "output\ty\tfloat32[2]\t[2., 4.]\n"
    with np.load(tmp_path / "out.npz") as saved:
        assert {name: saved[name].tolist() for name in saved.files} == {"y": [2.0, 4.0]}


def test_what_is_saved_follows_links_and_keeps_the_mode(package: Path, invoke: Invoke, tmp_path: Path) -> None:
    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)

    assert invoke("run", package, "--test-data", "--save", link).exit_code == 0

    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    with np.load(target) as saved:
        assert saved["y"].tolist() == [2.0, 4.0]


def test_what_is_saved_goes_through_a_pipe(package: Path, start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with start("run", package, "--test-data", "--save", pipe, stdout=subprocess.DEVNULL) as process:
        content = pipe.read_bytes()

    assert process.returncode == 0
    assert pipe.is_fifo()
    with np.load(io.BytesIO(content)) as saved:
        assert saved["y"].tolist() == [2.0, 4.0]


def test_nothing_is_saved_over_the_package(package: Path, invoke: Invoke) -> None:
    before = package.read_bytes()

    result = invoke("run", package, "--test-data", "--save", package)

    assert (result.exit_code, "the package itself" in result.stderr) == (2, True)
    assert package.read_bytes() == before


def test_run_takes_the_packaged_test_data(package: Path, invoke: Invoke) -> None:
    assert values(invoke("run", package, "--test-data", "--json")) == [2.0, 4.0]


def test_run_times_repeated_calls(package: Path, invoke: Invoke) -> None:
    timing = json.loads(invoke("run", package, "--test-data", "--json", "--repeat", 5).stdout)["timing"]

    assert timing["calls"] == 5
    assert 0 < timing["min_us"] <= timing["median_us"] <= timing["p90_us"] <= timing["max_us"]


def test_run_computes_the_outputs_asked_for(write: Write, invoke: Invoke) -> None:
    problem = Problem.of({"x1": "int8[N]", "x2": "int8[N]"}, {"y1": "int8[N]", "y2": "int8[N]"})
    package = write("same", problem, test=False)

    result = invoke("run", package, "--inputs", "-", "--outputs", "y2", stdin='{"x1": [1], "x2": [2]}')

    assert result.stdout == "output\ty2\tint8[1]\t[2]\n"


@pytest.mark.parametrize("dtype", ["string", "bool", "bfloat16", "float16", "uint64", "int8", "float64"])
def test_run_carries_every_type_through_json_and_npz(dtype: str, write: Write, invoke: Invoke, tmp_path: Path) -> None:
    sample: Any = {"string": ["é", ""], "bool": [True, False], "uint64": [2**64 - 1, 0]}.get(dtype, [1, -2])
    package = write("same", Problem.of({"x": f"{dtype}[N]"}, {"y": f"{dtype}[N]"}), test=False)

    saved = invoke("run", package, "--inputs", "-", "--save", tmp_path / "y.npz", stdin=json.dumps({"x": sample}))
    (tmp_path / "x.npz").write_bytes((tmp_path / "y.npz").read_bytes().replace(b"y.npy", b"x.npy"))
    result = invoke("run", package, "--inputs", tmp_path / "x.npz", "--json")

    assert (saved.exit_code, result.exit_code) == (0, 0)
    assert values(result) == sample


@pytest.mark.parametrize(
    ("shape", "given", "shape_got"),
    [("[]", "3", []), ("[N, 3]", "[]", [0, 3]), ("[N, M]", "[[], []]", [2, 0]), ("[N, M]", "[[1, 2]]", [1, 2]),
     ("[N, M]", '{"shape": [0, 5], "values": []}', [0, 5])],
)  # fmt: skip
def test_json_says_shapes(shape: str, given: str, shape_got: list[int], write: Write, invoke: Invoke) -> None:
    package = write("same", Problem.of({"x": f"int32{shape}"}, {"y": f"int32{shape}"}), test=False)

    result = invoke("run", package, "--inputs", "-", "--json", stdin=f'{{"x": {given}}}')

    assert json.loads(result.stdout)["outputs"]["y"]["shape"] == shape_got


@pytest.mark.parametrize(
    ("dtype", "given", "message"),
    [
        ("float32[N]", "[16777217]", "expected an int that float32 holds exactly (float32[N]), got 16777217"),
        ("float32[N]", "[1e39]", "a number in the range of float32"),
        ("float64[N]", "[1e400]", "a number in the range of float64"),
        ("float16[N]", "[65536]", "a number in the range of float16"),
        ("float32[N]", '["1"]', "a number, or one of 'NaN', 'Infinity', '-Infinity'"),
        ("float32[N]", "[true]", "expected a number (float32[N]), got true - at inputs.x[0]"),
        ("float32[N]", "[null]", "got null"),
        ("int8[N]", "[128]", "expected an int from -128 to 127 (int8[N]), got 128"),
        ("uint8[N]", "[-1]", "an int from 0 to 255"),
        ("int64[N]", "[1.0]", "an int from -9223372036854775808"),
        ("int64[N]", "[true]", "got true"),
        ("bool[N]", "[1]", "expected true or false"),
        ("string[N]", "[1]", "expected a text"),
        ("string[N]", "[NaN]", "expected a text (string[N]), got NaN"),
        ("int64[N, M]", "[[1], [1, 2]]", "expected a list of 1 like the one before, got a list of 2 - at inputs.x[1]"),
        ("int64[N, M]", "[[1], 2]", "got 2 - at inputs.x[1]"),
        ("int64[N, M]", "[1, 2]", "expected int64[N, M] (2 levels of lists), got 1 levels of lists"),
        ("int64[N, M]", "[]", "an empty list, which does not say its other lengths"),
        ("int64[N]", "{}", "expected an object with values, dtype and shape"),
        ("int64[N]", '{"values": [1], "dtype": "int8"}', "expected 'int64', got 'int8' - at inputs.x.dtype"),
        ("int64[N]", '{"values": [1], "shape": [2]}', "expected values of the shape [2], got values of the shape [1]"),
        ("int64[2]", "[1]", "expected int64[2], got int64[1]"),
    ],
)
def test_json_is_converted_only_where_nothing_else_can_be_meant(
    dtype: str, given: str, message: str, write: Write, invoke: Invoke
) -> None:
    package = write("same", Problem.of({"x": dtype}, {"y": dtype}), test=False)

    result = invoke("run", package, "--inputs", "-", stdin=f'{{"x": {given}}}')

    assert (result.exit_code, result.stdout) == (6, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("stdin", "code", "message"),
    [
        ("[1]", 2, "expected a JSON object"),
        ("{", 2, "no JSON"),
        (b"\xff\xfe", 2, "no JSON"),
        ('{"x": [1], "x": [2]}', 2, "comes twice"),
        ("[" * 100_000, 2, "no JSON"),
        ('{"x": ' + "1" * 5000 + "}", 2, "no JSON"),
        ('{"z": [1]}', 6, "one of the inputs (x)"),
        ("{}", 6, "expected float32[N], got nothing - at inputs.x"),
    ],
    ids=range(8),
)
def test_run_refuses_what_are_no_inputs(
    stdin: str | bytes, code: int, message: str, package: Path, invoke: Invoke
) -> None:
    result = invoke("run", package, "--inputs", "-", stdin=stdin)

    assert result.exit_code == code
    assert message in result.stderr


def test_run_refuses_arrays_of_objects_and_says_what_to_do(package: Path, invoke: Invoke, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array(["a"], object))

    result = invoke("run", package, "--inputs", tmp_path / "in.npz")

    assert result.exit_code == 2
    assert "'x' is an array of objects" in result.stderr
    assert "array.astype(str)" in result.stderr


def member_that_claims(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", b""),
        ("x.npy", b"no array"),
        ("x.txt", b"text"),
        ("x.npy", member_that_claims(f"({1 << 45},)")),
        ("x.npy", member_that_claims("(-1,)")),
        ("x.npy", member_that_claims("(1,)").replace(b"'<f4'", b"'<U0'").replace(b"(1,)", b"(1 << 40,)")),
    ],
    ids=range(6),
)
def test_run_refuses_a_damaged_npz(name: str, content: bytes, package: Path, invoke: Invoke, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        archive.writestr(name, content)

    result = invoke("run", package, "--inputs", tmp_path / "in.npz")

    assert result.exit_code == 2
    assert "save it by np.savez" in result.stderr


def test_run_refuses_an_npz_that_unpacks_without_end(package: Path, invoke: Invoke, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "in.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))

    result = invoke("run", package, "--inputs", tmp_path / "in.npz")

    assert result.exit_code == 2
    assert "bytes unpack to 314572800, at most 268435456 are read" in result.stderr


def test_run_keeps_the_target_when_saving_fails(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    package = write("same", Problem.of({"x": "string[N]"}, {"y": "string[N]"}), test=False)
    target = tmp_path / "saved" / "y.npz"
    target.parent.mkdir()
    target.write_text("before")

    result = invoke("run", package, "--inputs", "-", "--save", target, stdin='{"x": ["a\\u0000"]}')

    assert result.exit_code == 2
    assert "ends with a null character" in result.stderr
    assert target.read_text() == "before"
    assert list(target.parent.iterdir()) == [target]


def test_run_casts_npz_inputs_when_asked(package: Path, invoke: Invoke) -> None:
    file = io.BytesIO()
    np.savez(file, x=np.array([1.0]))

    assert invoke("run", package, "--inputs", "-", stdin=file.getvalue()).exit_code == 6
    for cast in ("same_kind", "x=same_kind"):
        assert invoke("run", package, "--inputs", "-", "--cast", cast, stdin=file.getvalue()).exit_code == 0
    assert invoke("run", package, "--inputs", "-", "--cast", "z=safe", stdin=file.getvalue()).exit_code == 2


def test_run_without_checks_gives_the_model_what_comes(package: Path, invoke: Invoke) -> None:
    file = io.BytesIO()
    np.savez(file, x=np.array([[1.0]]))

    result = invoke("run", package, "--inputs", "-", "--no-checks", stdin=file.getvalue())

    assert result.stdout == "output\ty\tfloat64[1, 1]\t[[2.]]\n"


def test_run_reads_a_named_pipe(package: Path, start: Start) -> None:
    ours, its = os.pipe()
    process = start("run", package, "--inputs", f"/dev/fd/{ours}", pass_fds=[ours])
    os.close(ours)
    os.write(its, b'{"x": [1]}')
    os.close(its)
    out, err = process.communicate(timeout=60)

    assert (out, err) == (b"output\ty\tfloat32[1]\t[2.]\n", b"")


def test_text_is_shown_as_it_is(write: Write, invoke: Invoke) -> None:
    package = write("same", Problem.of({"x": "string[]"}, {"y": "string[]"}), test=False)

    result = invoke("run", package, "--inputs", "-", stdin='{"x": "a  b\\n"}')

    assert result.stdout == "output\ty\tstring[]\t'a  b\\n'\n"


def test_stdout_holds_nothing_but_the_answer(write: Write, start: Start) -> None:
    process = start("run", write("chatty"), "--test-data", "--json")
    out, err = process.communicate(timeout=60)

    assert json.loads(out)["outputs"]["y"]["values"] == [2.0, 4.0]
    assert b"chatter of the model" in err
    assert b"chatter of its native code" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--inputs", "-"], 6, "the framework failed \\x1b[31m[bold]red[/bold]\\x07 - at x"),
        ([], 2, "one of --inputs FILE and --test-data"),
        (["--inputs", "-", "--test-data"], 2, "one of --inputs FILE and --test-data"),
        (["--test-data"], 3, "has no test data"),
        (["--inputs", "-", "--trust", "data"], 5, "needs trust 'graph'"),
        (["--inputs", "-", "--device", "cuda"], 4, "not on 'cuda'; pass --device 'cpu'"),
        (["--inputs", "-", "--backend", "other"], 4, "no backend by 'other' for platform 'double'"),
        (["--inputs", "-", "--option", "speed=3"], 2, "no option 'speed' (options: factor)"),
        (["--inputs", "-", "--option", "speed"], 2, "is not like threads=2"),
        (["--inputs", "-", "--outputs", "z"], 6, "one of the outputs (y)"),
        (["--inputs", "-", "--save", "no/such/folder.npz"], 2, "a folder that exists"),
        (["--inputs", "no-such-file"], 2, "No such file"),
    ],
    ids=range(12),
)
def test_errors_are_one_line_with_a_code(
    arguments: list[str], code: int, message: str, write: Write, invoke: Invoke
) -> None:
    package = write("double" if "z" in arguments else "failing", test=False)

    result = invoke("run", package, *arguments, "--json", stdin='{"x": [1]}')

    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert message in json.loads(result.stdout)["error"]["message"]


def test_options_are_read_as_json_where_they_are() -> None:
    context, option = click.Context(click.Command("run")), click.Option(["--option"])

    read = named_values(context, option, ("a=2", "b=true", "c=text", 'd="2"', "e=x=y"))

    assert read == {"a": 2, "b": True, "c": "text", "d": "2", "e": "x=y"}


@pytest.mark.parametrize(
    ("casts", "message"),
    [
        (["always"], "'always' is not one of no, safe, same_kind"),
        (["x=always"], "'always' is not one of"),
        (["safe", "x=no"], "a rule for all inputs stands alone"),
        (["safe", "same_kind"], "a rule for all inputs stands alone"),
    ],
    ids=str,
)
def test_run_names_a_cast_that_cannot_be(casts: list[str], message: str, package: Path, invoke: Invoke) -> None:
    result = invoke("run", package, "--test-data", *(part for cast in casts for part in ("--cast", cast)))

    assert result.exit_code == 2
    assert message in result.stderr


def test_what_a_model_prints_at_the_very_end_is_no_answer(write: Write, start: Start, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"x": [1, 2]}')
    process = start("run", write("late", test=False), "--inputs", "in.json", "--json")
    stdout, stderr = process.communicate(timeout=60)

    assert json.loads(stdout)["outputs"]["y"]["values"] == [2.0, 4.0]
    assert (process.returncode, b"chatter at the end" in stderr) == (0, True)


def test_what_is_no_array_is_told_where_nothing_is_checked(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write("listing", test=False), "--inputs", "-", "--no-checks", stdin='{"x": [1]}')

    assert (result.exit_code, "the model gave a list, which is no array" in result.stderr) == (6, True)


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = "import os; os.rmdir(os.getcwd()); from neuropod_core.cli import main; main()"
    command = [sys.executable, "-c", program, "plugins", "--json"]

    process = subprocess.run(command, cwd=gone, capture_output=True, check=False, timeout=60)

    assert process.returncode == 2
    assert "the current folder was removed" in json.loads(process.stdout)["error"]["message"]
