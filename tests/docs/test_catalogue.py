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
