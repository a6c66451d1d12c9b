"""The messages of the error catalogue are those that the errors make of their facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuropod_core import errors

CATALOGUE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
PATH = "digits.neuropod"

EXAMPLES = [
    errors.PackageLimitError("files", 50000, 50001, PATH),
    errors.PackageIntegrityError(f"{PATH}: 0/data/model.pt", "sha256 d0999d41", "c5c2b68d", "fetch the package again"),
    errors.TrustError(
        "code",
        "graph",
        "code is the class of python packages",
        PATH,
        "if you trust where it comes from, pass trust='code'",
    ),
    errors.BackendNotFoundError("torchscript", ("onnx",), "run: pip install neuropod-torch"),
    errors.BackendConflictError("onnx", ("neuropod-onnx", "neuropod-openvino")),
    errors.PluginError(
        "neuropod-trees 1.2.0",
        "importing neuropod_trees.plugin raised SyntaxError: invalid syntax (plugin.py, line 8)",
        "reinstall it: pip install --force-reinstall neuropod-trees; or tell its author",
    ),
    errors.PluginContractError(
        "neuropod-trees 3.0.0",
        "it was written for contract 2.0, this core serves up to 1.0",
        "run: pip install --upgrade neuropod-core",
    ),
    errors.PluginBlockedError("neuropod-onnx 0.1.0", "the environment variable NEUROPOD_BLOCKED_PLUGINS"),
    errors.FrameworkVersionError("torch", ">=2.9", "2.4.0", "package 'digits'", "install a version in that range"),
    errors.RequirementsError(("numpy 2.4.6 (installed 2.2.6)",), "0/requirements.lock", "install the locked versions"),
    errors.InterpreterError(">=3.13", ("3.11.7 at bin/python3.11",), PATH, "install one, or name one by python=..."),
    errors.EnvironmentBuildError(
        "offline",
        "numpy-2.2.6-cp311-cp311-manylinux_2_17_x86_64.whl is not here, and the network was not to be used",
        "0/pylock.toml",
        "run: neuropod env export",
    ),
    errors.SandboxError(
        ("Landlock version 3 (no writing outside): this kernel has version 1",),
        remedy="run it on Linux 6.2 or later",
    ),
    errors.TensorMismatchError(
        "inputs.image", "float32[N, 8, 8]", "float64[2, 8, 8]", "convert it by .astype('float32')"
    ),
    errors.ResultMismatchError("outputs.scores", "close to float32[1]", "float32[1]", 1.0),
    errors.PackageNotFoundError("there is no package", PATH, "check the path"),
    errors.CustomOpError(
        "it registers neuropod_test::scaled_add, which another library has registered in this process",
        "ops/libscaled_add.so",
        "run the model in a process of its own: load_neuropod(..., placement='worker')",
    ),
    errors.DeadlineError(0.2, "its worker was busy with it", "give it longer"),
    errors.SharedMemoryError(
        "1114112 bytes do not fit shared memory of 1048576",
        remedy="pass Worker(shared_memory_bytes=4194304) or smaller tensors",
    ),
    errors.WorkerDiedError(
        "digits",
        "signal 11 (SIGSEGV)",
        ("Fatal Python error: Segmentation fault",),
        "call again: another worker is started",
    ),
    errors.WorkerProtocolError("an answer has no status 77"),
    errors.ForkedModelError(
        "the model was loaded before this process was forked, and its worker is the parent's",
        remedy="load the model in the child",
    ),
    errors.WorkerStartError(
        "the worker ended by exit code 7 before it was ready; it wrote: no luck today", at="digits"
    ),
    errors.ModelClosedError("the model is closed", remedy="load it again"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_catalogue_shows_the_message(error: errors.NeuropodError) -> None:
    section = CATALOGUE.partition(f"\n## {type(error).__name__}\n")[2].partition("\n## ")[0]

    assert f"```text\n{error}\n```" in section


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_catalogue_lists_the_facts(error: errors.NeuropodError) -> None:
    section = CATALOGUE.partition(f"\n## {type(error).__name__}\n")[2].partition("\n## ")[0]
    listed = section.partition("Attributes: ")[2]

    assert (
        "as `PluginError`" in listed
        or not listed
        or {f"`{name}`" for name in error.facts} <= set(listed.replace(",", " ").replace(".", " ").split())
    )
