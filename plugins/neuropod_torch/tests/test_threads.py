"""A worker runs with the threads of its parent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neuropod_core import Problem, Worker, load_neuropod
from neuropod_torch._quiet import quiet_jit
from neuropod_torch.packagers import create_torchscript_neuropod
from neuropod_torch.plugin import TorchScriptBackend

_PROBLEM = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("threads") / "double.neuropod"
    with quiet_jit():
        script = torch.jit.script(Double())
    create_torchscript_neuropod(neuropod_path=path, model_name="double", module=script, problem=_PROBLEM)
    return path


@pytest.fixture
def three_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def _threads(package: Path, **arguments: object) -> int:
    with load_neuropod(package, **arguments) as model:  # type: ignore[arg-type]  # any of them
        return int(str(model.description["intra_op_threads"]))


def test_a_worker_has_the_threads_of_its_parent(package: Path, three_threads: int) -> None:
    assert _threads(package) == three_threads
    assert _threads(package, placement="worker") == three_threads


def test_a_worker_has_the_threads_that_it_is_told(package: Path, three_threads: int) -> None:
    assert _threads(package, placement="worker", options={"intra_op_threads": 2}) == three_threads - 1
    assert _threads(package, placement=Worker(threads=1)) == 1


def test_settings_import_no_torch() -> None:
    code = (
        "import sys\nfrom neuropod_torch.plugin import TorchScriptBackend\n"
        "assert TorchScriptBackend().thread_settings() == {}\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_those_of_torch() -> None:
    within, across = torch.get_num_threads(), torch.get_num_interop_threads()

    assert TorchScriptBackend().thread_settings() == {"intra_op_threads": within, "inter_op_threads": across}
