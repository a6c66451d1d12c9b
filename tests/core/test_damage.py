"""The harness for damaged artefacts tells apart every way in which a case can end."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuropod_core import Problem
from neuropod_core.packaging import new_package
from neuropod_core.testing import damage
from neuropod_core.testing.damage import damaged, try_damaged

BACKEND = """
import os, signal, sys
from neuropod_core import Backend, Descriptor, Executor, ModelLoadError, Trust, hookimpl

neuropod_contract = (1, 0)


class Doubled(Executor):
    def infer(self, inputs, outputs=None):
        return {"y": inputs["x"] * 2}

    def close(self):
        pass


class Brittle(Backend):
    descriptor = Descriptor(platform="brittle", trust=Trust.DATA)

    def load(self, variant, options):
        content = variant.artefact("data/model.txt").read_bytes()
        if content == b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if content == b"leave":
            sys.stderr.write("no more"); sys.stderr.flush(); os._exit(3)
        if content == b"wait":
            signal.pause()
        if content == b"refuse":
            raise ModelLoadError("is damaged")
        if content == b"fail":
            raise SystemExit("foreign")
        return Doubled()


@hookimpl
def neuropod_backend(platform):
    return Brittle()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a package of a backend that ends as the content of its artefact says."""
    site = tmp_path / "site"
    record = site / "brittle-1.0.dist-info"
    record.mkdir(parents=True)
    (site / "brittle_backend.py").write_text(BACKEND)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: brittle\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[neuropod.backends]\nbrittle = brittle_backend\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    path, x = tmp_path / "m.neuropod", np.ones(2, np.float32)
    problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
    with new_package("brittle", neuropod_path=path, model_name="m", problem=problem, test_input_data={"x": x}) as new:
        (new.folder / "data").mkdir()
        (new.folder / "data" / "model.txt").write_bytes(b"sound")
    return path


def test_every_end_of_a_case_is_told(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = (b"sound", b"kill", b"refuse", b"wait", b"leave", b"fail", b"sound")
    wrapper = "from neuropod_core.testing import damage, _damaged_child as child\nimport sys\n"
    wrapper += f"child.damaged = lambda sound, chance: {contents!r}[WHICH]\n"
    # The child damages by number; here the number chooses the content, by way of what the chance is seeded with.
    wrapper += "class Numbered:\n    def Random(number):\n        global WHICH\n        WHICH = number\n"
    wrapper += "child.random = Numbered\nchild.main(*sys.argv[1:])\n"
    (tmp_path / "site" / "numbered_child.py").write_text(wrapper)
    monkeypatch.setattr(damage, "_CHILD", "numbered_child")

    report = try_damaged(package, range(len(contents)), work=tmp_path, limit_s=2)

    assert report.ended == {
        "results": 2,
        "ModelLoadError": 1,
        "SystemExit": 1,
        "died: SIGKILL": 1,
        "died: exit 3": 1,
        "hung": 1,
    }
    assert report.ran == len(contents)
    assert [words.split()[1] for words in report.died] == ["1", "4"]
    assert "no more" in report.died[1]
    assert [words.split()[1].rstrip(":") for words in report.wrong] == ["3", "5"]
    assert "SystemExit: foreign" in report.wrong[1]
    assert not list(tmp_path.glob("damage-*"))


def test_damage_is_the_same_for_the_same_number() -> None:
    content = bytes(range(256))
    made = [damaged(content, random.Random(number)) for number in range(200)]  # noqa: S311 - as the harness does

    assert made == [damaged(content, random.Random(number)) for number in range(200)]  # noqa: S311 - as above
    assert len(set(made)) > 150


def test_damage_of_an_archive_is_mostly_within_members() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a", b"first" * 20)
        archive.writestr("b", b"second" * 20)

    readable = sum(is_sound(damaged(target.getvalue(), random.Random(number))) for number in range(200))  # noqa: S311

    assert readable > 100


def is_sound(content: bytes) -> bool:
    read: Callable[[], object] = lambda: zipfile.ZipFile(io.BytesIO(content)).testzip()  # noqa: E731 - said once
    try:
        return read() is None
    except Exception:  # noqa: BLE001 - however zipfile says so
        return False


def test_empty_artefacts_can_be_damaged() -> None:
    assert all(isinstance(damaged(b"", random.Random(number)), bytes) for number in range(50))  # noqa: S311 - as above
