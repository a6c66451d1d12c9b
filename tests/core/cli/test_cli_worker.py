"""`neuropod run` and `verify` in workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neuropod_core import Problem, sandbox
from neuropod_core.testing import fake_package

PLUGIN = """
import os

import numpy as np

from neuropod_core import Backend, Descriptor, Executor, Trust, hookimpl

neuropod_contract = (1, 1)


class Doubler(Executor):
    def infer(self, inputs, outputs=None):
        print("doubling", flush=True)
        return {"y": 2 * inputs["x"], "pid": np.array([os.getpid()])}

    def close(self):
        pass


class DoublerBackend(Backend):
    descriptor = Descriptor(platform="doubler", trust=Trust.CODE)

    def load(self, variant, options):
        return Doubler()


@hookimpl
def neuropod_backend(platform):
    return DoublerBackend()
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Install a plugin into a folder, and write a package and its inputs beside it."""
    facts = tmp_path / "site" / "doubler-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: doubler\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[neuropod.backends]\ndoubler = doubler_plugin\n")
    (tmp_path / "site" / "doubler_plugin.py").write_text(PLUGIN)
    problem = Problem.of({"x": "float64[N]"}, {"y": "float64[N]", "pid": "int64[1]"}, name="doubler")
    fake_package(tmp_path / "m.neuropod", "doubler", problem)
    (tmp_path / "in.json").write_text('{"x": [1, 2]}')
    return tmp_path


def said(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(site / 'site')!r}); from neuropod_core.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=site, check=False, capture_output=True, text=True, timeout=120
    )


def outputs_of(ran: subprocess.CompletedProcess[str]) -> dict[str, list[int]]:
    assert ran.returncode == 0, ran.stderr
    return {name: tensor["values"] for name, tensor in json.loads(ran.stdout)["outputs"].items()}


@pytest.mark.parametrize("more", [[], ["--replicas", "2"], ["--repeat", "5"]], ids=" ".join)
def test_run_in_a_worker_gives_the_same(site: Path, more: list[str]) -> None:
    arguments = ("run", "m.neuropod", "--inputs", "in.json", "--trust", "code", "--json")

    here, there = outputs_of(said(site, *arguments)), outputs_of(said(site, *arguments, "--placement", "worker", *more))

    assert here["y"] == there["y"] == [2.0, 4.0]
    assert here["pid"] != there["pid"]


@pytest.mark.parametrize("placement", ["in_process", "worker"])
def test_what_a_model_prints_goes_to_stderr(site: Path, placement: str) -> None:
    ran = said(site, "run", "m.neuropod", "--inputs", "in.json", "--trust", "code", "--json", "--placement", placement)

    assert outputs_of(ran)["y"] == [2.0, 4.0]
    assert any(line.endswith("doubling") for line in ran.stderr.splitlines())


def test_run_in_a_sandbox_needs_no_trust(site: Path) -> None:
    if sandbox.available().missing:
        pytest.skip("this kernel has no sandbox")
    arguments = ("run", "m.neuropod", "--inputs", "in.json", "--json", "--trust", "sandboxed")

    assert outputs_of(said(site, *arguments, "--placement", "worker"))["y"] == [2.0, 4.0]
    refused = said(site, *arguments)
    assert refused.returncode == 4
    assert "pass --placement 'worker'" in refused.stdout


def test_settings_of_workers_need_one(site: Path) -> None:
    ran = said(site, "run", "m.neuropod", "--inputs", "in.json", "--replicas", "2")

    assert ran.returncode == 2
    assert "--replicas goes with --placement worker" in ran.stderr


def test_verify_loads_in_a_worker(site: Path) -> None:
    ran = said(site, "verify", "m.neuropod", "--trust", "code", "--placement", "worker", "--json")

    steps = {step["step"]: step["status"] for step in json.loads(ran.stdout)["packages"][0]["steps"]}
    assert steps == {"format": "ok", "hashes": "ok", "load": "ok", "test": "skipped"}


def test_an_environment_that_is_none_is_named(site: Path) -> None:
    more = ("--trust", "code", "--placement", "worker", "--environment", str(site / "nowhere"))
    ran = said(site, "run", "m.neuropod", "--inputs", "in.json", *more)

    assert ran.returncode == 4
    assert "nowhere" in ran.stderr
