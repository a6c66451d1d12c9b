"""Damaged models, each tried in a child: an error of ours or ONNX Runtime's own answer, and never a hang.

Where the child dies, ONNX Runtime by hand dies of the same file: that is what workers are for.
"""

from __future__ import annotations

import json
import random
import selectors
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from neuropod_onnx import create_onnx_neuropod

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
CHILD = Path(__file__).with_name("mutation_child.py")
SECONDS = 30
EXTREMES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 64, 2**16, 2**31 - 1, 2**31, 2**62, 2**63 - 1)
FEW, MANY = 60, 2000


# -- what is damaged --------------------------------------------------------------------------------------------------


def _models(build: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    n, value = build.node, helper.make_tensor_value_info
    rng = np.random.default_rng(2)
    body = helper.make_graph(
        [n("Add", "total x", "more"), n("Identity", "go", "on"), n("Identity", "more", "seen")],
        "body",
        [value("i", INT64, []), value("go", TensorProto.BOOL, []), value("total", FLOAT, ["N"])],
        [value("on", TensorProto.BOOL, []), value("more", FLOAT, ["N"]), value("seen", FLOAT, ["N"])],
    )
    row, held = (FLOAT, ["N"]), [("most", np.array(3)), ("yes", np.array(True))]
    text = {"keys_strings": ["a", "b"], "values_int64s": [1, 2], "default_int64": 0, "domain": "ai.onnx.ml"}
    opsets = {"opset_imports": [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]}
    conv = [n("Conv", "x k", "c", pads=[1, 1, 1, 1]), n("MaxPool", "c", "y", kernel_shape=[2, 2], strides=[2, 2])]
    lstm = [n("LSTM", "x w r", "y", hidden_size=5)]
    pick = [n("Gather", "table i", "rows"), n("Reshape", "rows shape", "y"), n("NonZero", "rows", "where")]
    return {
        "mlp": (build.mlp(), {"x": rng.random((2, 64), np.float32)}),
        "conv": (
            build.model(
                conv,
                {"x": (FLOAT, ["N", 2, 8, 8])},
                {"y": (FLOAT, ["N", 3, 4, 4])},
                ("k", rng.random((3, 2, 3, 3), np.float32)),
            ),
            {"x": rng.random((1, 2, 8, 8), np.float32)},
        ),
        "lstm": (
            build.model(
                lstm,
                {"x": (FLOAT, ["T", "N", 4])},
                {"y": (FLOAT, ["T", 1, "N", 5])},
                ("w", rng.random((1, 20, 4), np.float32)),
                ("r", rng.random((1, 20, 5), np.float32)),
            ),
            {"x": rng.random((3, 2, 4), np.float32)},
        ),
        "loop": (
            build.model(
                [n("Loop", "most yes x", "last all", body=body)],
                {"x": row},
                {"last": row, "all": (FLOAT, ["T", "N"])},
                *held,
            ),
            {"x": rng.random(4, np.float32)},
        ),
        "text": (
            build.model([n("LabelEncoder", "s", "y", **text)], {"s": (STRING, ["N"])}, {"y": (INT64, ["N"])}, **opsets),
            {"s": np.array(["b", "c", "a"])},
        ),
        "pick": (
            build.model(
                pick,
                {"i": (INT64, ["N"])},
                {"y": (FLOAT, [2, "M"]), "where": (INT64, [2, "K"])},
                ("table", rng.random((5, 4), np.float32)),
                ("shape", np.array([2, -1])),
            ),
            {"i": np.array([0, 3, 4, 1])},
        ),
    }


@pytest.fixture
def packages(build: Any, tmp_path: Path) -> dict[str, Path]:
    """Write the packages to be damaged, each with its inputs beside it; "external" keeps its tensors in a file."""
    (tmp_path / "whole").mkdir()
    written = {}
    for name, (model, inputs) in _models(build).items():
        written[name] = tmp_path / "whole" / name
        create_onnx_neuropod(neuropod_path=written[name], model_name=name, model=model, package_as_zip=False)
        np.savez(written[name].with_suffix(".npz"), **inputs)
    path = tmp_path / "source.onnx"
    onnx.save_model(build.mlp(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    written["external"] = tmp_path / "whole" / "external"
    create_onnx_neuropod(
        neuropod_path=written["external"], model_name="external", model_path=path, package_as_zip=False
    )
    shutil.copy(written["mlp"].with_suffix(".npz"), written["external"].with_suffix(".npz"))
    for package in written.values():
        (package / "manifest.json").unlink()  # Who damages a package writes a manifest that fits, or none.
    return written


# -- how --------------------------------------------------------------------------------------------------------------


def _damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        start = rng.randrange(len(data)) if data else 0
        stop = min(len(data), start + rng.choice((1, 1, 2, 8, 64)))
        piece = data[start:stop]
        match rng.randrange(7):
            case 0:
                data[start:stop] = bytes(byte ^ (1 << rng.randrange(8)) for byte in piece)
            case 1:
                data[start:stop] = rng.randbytes(len(piece))
            case 2:
                del data[start:stop]
            case 3:
                data[start:start] = piece
            case 4:
                del data[start:]
            case 5:
                data[start:start] = rng.randbytes(len(piece))
            case _:
                data[start:stop] = bytes([rng.choice((0, 0x7F, 0x80, 0xFF))]) * len(piece)
    return bytes(data)


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if not hasattr(value, "ListFields") else [value]:
                found += _messages(inner)
    return found


def _damaged_message(content: bytes, rng: random.Random) -> bytes:
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _damage_one(rng.choice(_messages(model)), rng)
    return bytes(model.SerializeToString())


def _damage_one(message: Any, rng: random.Random) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = rng.choice(fields)
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif not isinstance(value, (int, float, str, bytes)) and not hasattr(value, "ListFields"):
        _damage_list(value, rng)
    elif not hasattr(value, "ListFields"):
        setattr(message, field.name, _damaged_scalar(value, rng))


def _damage_list(values: Any, rng: random.Random) -> None:
    place = rng.randrange(len(values))
    match rng.randrange(3):
        case 0:
            del values[place]
        case 1:
            values.append(values[place])
        case _ if isinstance(values[place], (int, float, str, bytes)):
            values[place] = _damaged_scalar(values[place], rng)
        case _:
            _damage_one(values[place], rng)


def _damaged_scalar(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        wanted = rng.choice((*EXTREMES, value + 1, value - 1, value * 2))
        return wanted if -(2**31) <= wanted < 2**31 or abs(value) > 2**31 or rng.random() < 0.5 else 1
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, float("inf"), float("nan"), 1e38))
    if isinstance(value, bytes):
        return _damaged_bytes(value, rng)
    operators = ("Add", "MatMul", "Conv", "Reshape", "If", "Loop", "Cast", "Gather", "Resize", "Concat", "EPContext")
    return rng.choice(
        ("", value * 2, value[:-1], "x", "y", "w1", "ä\n", *operators, "com.microsoft", "../w", "/etc/passwd")
    )


def _damaged_file(package: Path, rng: random.Random) -> None:
    model, data = package / "0" / "data" / "model.onnx", package / "0" / "data" / "w.bin"
    if data.exists() and rng.random() < 0.3:
        data.write_bytes(_damaged_bytes(data.read_bytes(), rng))
        return
    damaged = rng.choice((_damaged_bytes, _damaged_message, _damaged_message))
    try:
        model.write_bytes(damaged(model.read_bytes(), rng))
    except (ValueError, TypeError):  # A value that the field cannot have, for Protocol Buffers' own checks.
        model.write_bytes(_damaged_bytes(model.read_bytes(), rng))


# -- the trial --------------------------------------------------------------------------------------------------------


class Child:
    """A process that tries packages; another is started when one dies."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, str(CHILD), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def tries(self, job: dict[str, str]) -> str:
        """Give its line, ``died SIGNAL`` or ``hangs``."""
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(SECONDS):
                self.end()
                return "hangs"
        line = process.stdout.readline().decode().strip()
        if line:
            return line
        died = f"died {process.wait(SECONDS)}"
        self.end()
        return died

    def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _tried(packages: dict[str, Path], folder: Path, count: int, report: Callable[[str], None]) -> dict[str, str]:
    """Give what was bad, by mutant; a death counts only if ONNX Runtime by hand survives."""
    bad, verdicts = {}, Counter[str]()
    ours, by_hand = Child(), Child("by hand")
    try:
        for number in range(count):
            name = list(packages)[number % len(packages)]
            mutant = folder / f"{number}-{name}"
            shutil.copytree(packages[name], mutant)
            mutant.chmod(0o700)
            _damaged_file(mutant, random.Random(number))  # noqa: S311 - the same mutants in every run
            job = {"package": str(mutant), "inputs": str(packages[name].with_suffix(".npz"))}
            verdict = ours.tries(job)
            dies_itself = verdict.startswith(("died", "hangs")) and by_hand.tries(job).startswith(verdict[:4])
            verdicts[f"{verdict}, as by hand" if dies_itself else verdict] += 1
            if verdict.startswith(("wrong", "died", "hangs")) and not (dies_itself and verdict.startswith("died")):
                bad[mutant.name] = verdict
            else:
                shutil.rmtree(mutant)
    finally:
        ours.end()
        by_hand.end()
    report(f"{count} mutants: {dict(verdicts.most_common())}")
    return bad


def test_whole_packages_are_right(packages: dict[str, Path]) -> None:
    child = Child()
    verdicts = {
        name: child.tries({"package": str(path), "inputs": str(path.with_suffix(".npz"))})
        for name, path in packages.items()
    }
    child.end()

    assert verdicts == dict.fromkeys(packages, "right")


def test_damaged_models_end_in_our_errors_or_their_answer(packages: dict[str, Path], tmp_path: Path) -> None:
    assert _tried(packages, tmp_path, FEW, print) == {}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_thousand_damaged_models_do_so_too(packages: dict[str, Path], tmp_path: Path) -> None:
    assert _tried(packages, tmp_path, MANY, print) == {}
