"""Compiled packages: the host and the device that they were made for, the sizes that they take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from neuropod_core import (
    DeviceError,
    ModelLoadError,
    NeuropodError,
    PackageFormatError,
    PackagingError,
    Problem,
    TensorMismatchError,
    load_neuropod,
)
from neuropod_core.packaging import repack
from neuropod_torch._host import this_host
from neuropod_torch.export_packagers import create_torch_aoti_neuropod

PROBLEM = Problem.of(
    {"x": "float32[N, 3]"}, {"y": "float32[N, 3]", "twin": "float32[N, 3]", "x_again": "float32[N, 3]"}
)
QUICK = {"aot_inductor.compile_wrapper_opt_level": "O0"}
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.linear(x), "twin": self.linear(x), "x_again": x}


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(7)
    return Model().eval()


@pytest.fixture(scope="module")
def package(net: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile once for all tests; the package is a folder without a manifest, so that they can change it."""
    work = tmp_path_factory.mktemp("aoti")
    program = torch.export.export(net, (torch.ones(3, 3),), dynamic_shapes={"x": {0: Dim("n", max=50)}})
    create_torch_aoti_neuropod(
        neuropod_path=work / "made.neuropod",
        model_name="m",
        problem=PROBLEM,
        program=program,
        inductor_configs=QUICK,
        test_input_data={"x": X},
    )
    repack(work / "made.neuropod", work / "folder.neuropod", package_as_zip=False)
    (work / "folder.neuropod" / "manifest.json").unlink()
    return work / "folder.neuropod"


@pytest.fixture
def changed(package: Path) -> Iterator[Callable[..., Path]]:
    """Change the record of a package for one test."""
    file = package / "0" / "config.json"
    before = file.read_text()

    def change(**fields: Any) -> Path:
        file.write_text(json.dumps({**json.loads(before), **fields}))
        return package

    yield change
    file.write_text(before)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))


class Average(torch.nn.Module):
    """What AOTInductor 2.13 computes rightly once, and does not write back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls.add_(1)
        self.seen.add_((x - self.seen) / self.calls)
        return {"average": self.seen, "calls": self.calls}


def test_code_that_loses_what_the_model_writes_is_not_packaged(tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match="loses what the model writes to its buffers"):
        create_torch_aoti_neuropod(
            neuropod_path=tmp_path / "m.neuropod",
            model_name="m",
            problem=Problem.of({"x": "float32[3]"}, {"average": "float32[3]", "calls": "int64[]"}),
            module=Average().eval(),
            inductor_configs=QUICK,
        )

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [0, 1, 2, 50])
def test_compiled_program_takes_every_size(rows: int, package: Path, net: torch.nn.Module) -> None:
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)

    with load_neuropod(package, trust="code") as model, torch.no_grad():
        results = model.infer({"x": x})

        np.testing.assert_allclose(results["y"], net(torch.from_numpy(x))["y"].numpy(), rtol=1e-5, atol=1e-6)


def test_size_beyond_the_program_is_refused(package: Path) -> None:
    with load_neuropod(package, trust="code") as model, pytest.raises(TensorMismatchError, match=r"x\[0\] <= 50"):
        model.infer({"x": np.ones((51, 3), np.float32)})


def test_results_of_compiled_code_share_nothing(package: Path) -> None:
    x = X.copy()
    with load_neuropod(package, trust="code") as model:
        results = model.infer({"x": x})

        arrays = [x, *results.values()]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        np.testing.assert_array_equal(results["y"], results["twin"])


def test_record_tells_the_host(package: Path) -> None:
    record = json.loads((package / "0" / "config.json").read_text())

    assert record["host"] == this_host()
    assert record["device"] == "cpu"
    with load_neuropod(package, trust="code") as model:
        assert model.description["host"] == this_host()


@pytest.mark.parametrize(
    ("key", "value"), [("system", "Darwin"), ("machine", "riscv64"), ("cpu_capability", "ZVECTOR"), ("torch", "99.1.0")]
)
def test_code_for_another_host_is_not_loaded(
    key: str, value: str, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *given, **_: opened.append(given))

    with pytest.raises(ModelLoadError, match="was compiled for .*, this is ") as raised:
        load_neuropod(changed(host={**this_host(), key: value}), trust="code")

    assert value in str(raised.value)
    assert this_host()[key] in str(raised.value)
    assert opened == []


def test_older_host_of_the_same_kind_will_do(changed: Callable[..., Path]) -> None:
    with load_neuropod(changed(host={**this_host(), "cpu_capability": "DEFAULT", "torch": "2.6.0"}), trust="code") as m:
        assert m.infer({"x": X})["y"].shape == (2, 3)


def test_code_for_another_device_is_not_loaded(changed: Callable[..., Path]) -> None:
    with pytest.raises(DeviceError, match=r"was compiled for cuda, 'cpu' was asked for"):
        load_neuropod(changed(device="cuda"), trust="code")


@pytest.mark.parametrize(
    "fields",
    [
        {"host": None},
        {"host": {}},
        {"host": {"system": 1}},
        {"device": "abacus"},
        {"keeps_state": "no"},
        {"interface": {}},
        {"interface": {"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}], "outputs": {}, "conditions": []}},
        {"interface": {"inputs": [], "outputs": {}, "conditions": ["__import__('os')"]}},
        {"interface": {"inputs": [], "outputs": {}, "conditions": ["s0[0] == 1"]}},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
def test_unsound_record_is_refused(fields: dict[str, Any], changed: Callable[..., Path]) -> None:
    with pytest.raises(PackageFormatError, match=r"0/config\.json"):
        load_neuropod(changed(**fields), trust="code")


def test_missing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: torch.nn.Module) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    def compile_(*_: object, **__: object) -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_)

    with pytest.raises(PackagingError, match=r"see that a C\+\+ compiler is installed"):
        create_torch_aoti_neuropod(neuropod_path=tmp_path / "a", model_name="a", problem=PROBLEM, module=net)
    assert list(tmp_path.glob("a*")) == []


def test_example_in_another_layout_is_not_compiled(tmp_path: Path, net: torch.nn.Module) -> None:
    program = torch.export.export(net, (torch.ones(3, 5).t()[:, :3].t()[:, :3].contiguous().t(),))
    problem = Problem.of({"x": "float32[3, 3]"}, {"y": "float32[3, 3]"})

    with pytest.raises(NeuropodError, match="not contiguous"):
        create_torch_aoti_neuropod(neuropod_path=tmp_path / "a", model_name="a", problem=problem, program=program)
