from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from neuropod_core import Package, load_neuropod

Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]  # type: ignore[name-defined]  # noqa: F821

PROBLEM = """
name = "vectors"
[inputs.x]
dtype = "float32"
shape = ["N"]
[outputs.y]
dtype = "float32"
shape = ["N"]
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.double").write_text("double")
    Path("saved").mkdir()
    Path("saved/model.double").write_text("double")
    Path("p.toml").write_text(PROBLEM)
    np.savez("in.npz", x=np.array([1, 2], np.float32))
    np.savez("out.npz", y=np.array([2, 4], np.float32))
    np.savez("wrong.npz", y=np.array([2, 5], np.float32))
    Path("in.json").write_text('{"x": [1, 2]}')
    Path("out.json").write_text('{"y": [2, 4]}')


def test_pack_writes_a_package_that_was_tried(invoke: Invoke) -> None:
    result = invoke(
        *("pack", "double", "m.double", "-o", "m.neuropod", "--problem", "p.toml"),
        *("--test-data", "in.npz", "--expected", "out.npz", "--json"),
    )

    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["sha256"] == sha256(Path("m.neuropod").read_bytes()).hexdigest()
    assert (document["name"], document["platform"], document["tested"]) == ("vectors", "double", True)
    assert document["inputs"] == ["x: float32[N]"]
    with load_neuropod(f"m.neuropod#sha256={document['sha256']}") as model:
        assert model.test() == {"y": 0.0}


def test_pack_takes_what_json_says_of_both_sides(invoke: Invoke) -> None:
    command = ("pack", "double", "m.double", "-o", "m", "--problem", "p.toml", "--test-data", "in.json")
    assert invoke(*command, "--expected", "out.json").exit_code == 0
    Path("m").unlink()
    Path("out.json").write_text('{"y": ["two", 4]}')

    result = invoke(*command, "--expected", "out.json")

    assert result.exit_code == 6
    assert "outputs.y[0]" in result.stderr


def test_pack_takes_a_folder_and_writes_one(invoke: Invoke) -> None:
    result = invoke("pack", "double", "saved", "-o", "m", "--problem", "p.toml", "--folder", "--name", "mine")

    assert result.exit_code == 0, result.stderr
    facts = dict(line.split("\t")[:2] for line in result.stdout.splitlines())
    assert (facts["name"], facts["tested"]) == ("mine", "it loads; pass --test-data to run it")
    with Package.open("m") as package:
        assert package.kind == "folder"


def test_pack_passes_the_rest_to_the_packager(invoke: Invoke) -> None:
    command = ("pack", "double", "m.double", "-o", "m", "--problem", "p.toml")

    assert invoke(*command, "--set", "level=2").exit_code == 3
    assert invoke(*command, "--node", "x=b").exit_code == 3
    assert not Path("m").exists()
    assert invoke(*command, "--set", "level=1", "--node", "x=a:0", "--input-device", "x=CPU").exit_code == 0
    with Package.open("m") as package:
        assert package.config.input_devices["x"] == "CPU"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.double"], 3, "there is no such file or folder"),
        (["p.toml"], 3, "double packages are made of *.double, a folder, got a file called 'p.toml'"),
        (["m.double"], 3, "pass either problem"),
        (["m.double", "--problem", "absent.toml"], 2, "absent.toml"),
        (["m.double", "--problem", "in.json"], 2, "--problem cannot be read"),
        (["m.double", "--problem", "p.toml", "--expected", "out.npz"], 3, "needs test_input_data"),
        (["m.double", "--problem", "p.toml", "--test-data", "in.npz", "--expected", "wrong.npz"], 3, "outputs.y"),
        (["m.double", "--problem", "p.toml", "--test-data", "absent.npz"], 2, "absent.npz"),
        (["m.double", "--test-data", "in.json"], 2, "JSON does not say its types"),
        (["m.double", "--problem", "p.toml", "--set", "nothing=1"], 2, "--set nothing is no argument of create"),
        (["m.double", "--problem", "p.toml", "--set", "model_name=1"], 2, "free to set"),
        (["m.double", "--problem", "p.toml", "--set", "level"], 2, "'level' is not like"),
        (["m.double", "--problem", "p.toml", "--node", "=x"], 2, "is not like"),
        (["m.double", "--problem", "p.toml", "--device", "cuda"], 3, "cuda"),
        (["m.double", "--problem", "p.toml", "--option", "nothing=1"], 3, "nothing"),
        (["m.double", "--problem", "p.toml", "--input-device", "x=TPU"], 3, "input_tensor_device"),
    ],
)
def test_pack_tells_what_is_wrong_and_leaves_nothing(
    arguments: list[str], code: int, words: str, invoke: Invoke, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))

    result = invoke("pack", "double", *arguments, "-o", "m.neuropod")

    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert result.stderr.count("error:") == 1
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before


def test_pack_of_an_unknown_platform_names_the_remedy(invoke: Invoke) -> None:
    result = invoke("pack", "no-such-thing", "m.double", "-o", "m")

    assert result.exit_code == 4
    assert "install the plugin that serves it" in result.stderr


def test_pack_keeps_stdout_for_the_answer(start: Start) -> None:
    process = start("pack", "double", "m.double", "-o", "m.neuropod", "--problem", "p.toml", "--json")
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 0, stderr
    assert json.loads(stdout)["name"] == "vectors"
    assert b"chatter of the packager" in stderr


def test_plugins_show_what_can_be_packed(start: Start) -> None:
    stdout, _ = start("plugins", "show", "double").communicate(timeout=60)

    assert "packs\t*.double\tcreate_double_neuropod:path" in stdout.decode()
