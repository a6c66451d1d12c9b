"""``neuropod pack``: from a file that a framework saved to a package, without a line of code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._completion import complete_platforms
from neuropod_core.cli._options import assignments, json_option, named_values, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, progress
from neuropod_core.cli._text import human_bytes

if TYPE_CHECKING:
    from neuropod_core.backend import Tensors
    from neuropod_core.problem import Problem, TensorSpec

__all__ = ["pack"]

_OWN = ("neuropod_path", "model_name")

_EPILOG = """\b
Examples:
  neuropod pack torchscript model.pt -o digits.neuropod --problem digits.toml
  neuropod pack onnx model.onnx -o digits.neuropod --test-data in.npz --expected out.npz
  neuropod pack tensorflow saved_model/ -o digits.neuropod --problem digits.toml
  neuropod pack tensorflow graph.pb -o digits.neuropod --problem digits.toml \\
      --node image=input:0 --node scores=softmax:0

\b
A problem in a file:
  name = "digits"
  [inputs.image]
  dtype = "uint8"
  shape = ["N", 8, 8]
  [outputs.scores]
  dtype = "float32"
  shape = ["N", 10]
"""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog=_EPILOG, short_help="Package a saved model, without code.")
@click.argument("platform", metavar="PLATFORM", shell_complete=complete_platforms)
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target",
    metavar="PACKAGE",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the package goes; nothing may be there.",
)
@click.option(
    "--problem", metavar="FILE", type=_FILE, help="The problem, as TOML or JSON; ONNX models bring their own."
)
@click.option("--name", metavar="NAME", help="What the model is called. Default: the problem, or the file.")
@click.option("--test-data", metavar="FILE", help="Inputs to try it with, an .npz or JSON file; they are packaged.")
@click.option("--expected", metavar="FILE", help="What must come out of them. Default: what comes out is recorded.")
@click.option(
    "--custom-op",
    "libraries",
    metavar="LIBRARY",
    type=_FILE,
    multiple=True,
    help="A library of custom operators; again for more.",
)
@click.option(
    "--node",
    "nodes",
    metavar="NAME=NODE",
    multiple=True,
    callback=assignments,
    help="Where a tensor of the problem has another name in the model; again for more.",
)
@click.option(
    "--input-device",
    "input_devices",
    metavar="NAME=DEVICE",
    multiple=True,
    callback=assignments,
    help="GPU or CPU: where an input goes if the model runs on a GPU; again for more.",
)
@click.option("--platform-version", metavar="RANGE", help="Versions of the framework that run it: '>=2.1 <3'.")
@click.option("--folder", is_flag=True, help="Write a folder, not a zip file.")
@click.option("--stored", is_flag=True, help="Do not compress.")
@click.option("--device", default="cpu", metavar="DEVICE", show_default=True, help="Where it is tried.")
@click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=named_values,
    help="An option of the backend for the trial; again for more.",
)
@click.option(
    "--set",
    "more",
    metavar="KEY=VALUE",
    multiple=True,
    callback=named_values,
    help="Any other argument of the packager, such as signature=serve; again for more.",
)
@json_option
@verbose_option
def pack(platform: str, model: Path, target: Path, *, as_json: bool, **given: Any) -> None:
    """Package MODEL, a file or folder that a framework saved, for PLATFORM.

    What is written is loaded and, with --test-data, run, before it is moved to its place; whatever fails, nothing is
    left behind. Loading a model runs what it brings: package models that you trust. `neuropod plugins show PLATFORM`
    lists what can be packaged so (packs), and the packagers for everything else.

    In a pipe, each line is the name of a fact and its value.
    """
    from neuropod_core.packagers import packager_for
    from neuropod_core.plugins import backend_for

    output = Output(as_json=as_json)
    with output.claimed():
        packager, keyword = packager_for(backend_for(platform).descriptor, model)
        arguments = _arguments(packager, keyword, model, given)
        with progress(f"packaging {model}"):
            packager(neuropod_path=target, **arguments)
        report = _report(target)
    output.show(report)


def _arguments(packager: Callable[..., None], keyword: str, model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    problem = _problem(given["problem"])
    known = {
        keyword: model,
        "model_name": given["name"] or (problem.name if problem else "") or model.absolute().stem,
        "problem": problem,
        "custom_ops": list(given["libraries"]),
        "platform_version_semver": given["platform_version"],
        "input_tensor_device": given["input_devices"],
        "package_as_zip": not given["folder"],
        "zip_compression": "stored" if given["stored"] else "deflated",
        "test_input_data": _tensors(given["test_data"], problem, "inputs"),
        "test_expected_out": _tensors(given["expected"], problem, "outputs"),
        "neuropod_load_args": {"device": given["device"], "options": given["options"]},
    }
    wanted = {name: value for name, value in known.items() if value not in (None, "", [], {})}
    return wanted | _further(packager, wanted, given["nodes"], given["more"])


def _problem(path: Path | None) -> Problem | None:
    from neuropod_core.errors import SpecError
    from neuropod_core.problem import Problem

    try:
        return None if path is None else Problem.from_file(path)
    except SpecError as error:
        raise click.UsageError(f"--problem cannot be read: {error}") from error


def _tensors(place: str | None, problem: Problem | None, side: str) -> Tensors | None:
    from neuropod_core.cli._inputs import read_tensors

    if place is None:
        return None
    if problem is None and not place.endswith(".npz"):
        raise click.UsageError("JSON does not say its types: pass --problem, or an .npz file")
    specs: tuple[TensorSpec, ...] = getattr(problem, side) if problem else ()
    return read_tensors(place, specs, side)


def _further(
    packager: Callable[..., None], taken: Mapping[str, Any], nodes: Mapping[str, str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Check what is only for some packagers against the keywords of this one."""
    from neuropod_core.packaging import PackageArguments

    own = {name for name, parameter in signature(packager).parameters.items() if parameter.kind.name == "KEYWORD_ONLY"}
    keywords = (own | set(PackageArguments.__annotations__)) - {*_OWN, *taken}
    if nodes and "node_name_mapping" not in own:
        raise click.UsageError(f"{_title(packager)} takes no --node")
    for name in more:
        if name not in keywords:
            raise click.UsageError(
                f"--set {name} is no argument of {_title(packager)} that is free to set ({', '.join(sorted(keywords))})"
            )
    return {**more, **({"node_name_mapping": dict(nodes)} if nodes else {})}


def _title(packager: Callable[..., None]) -> str:
    return getattr(packager, "__name__", "the packager")


def _report(target: Path) -> Report:
    from hashlib import sha256

    from neuropod_core.package import Package

    with Package.open(target) as package:
        tested = package.test_data_file is not None
        document: dict[str, Any] = {
            "name": package.config.name,
            "platform": package.config.platform,
            "package": package.place,
            "container": package.kind,
            "bytes": target.stat().st_size if package.kind == "zip" else sum(package.files.values()),
            "tested": tested,
            "inputs": [str(spec) for spec in package.config.problem.inputs],
            "outputs": [str(spec) for spec in package.config.problem.outputs],
            "sha256": None,
        }
    if document["container"] == "zip":
        with target.open("rb") as file:
            digest = sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        document["sha256"] = digest.hexdigest()
    return Report(document, [Facts(_facts(document))])


def _facts(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        ("name", document["name"]),
        ("platform", document["platform"]),
        ("package", document["package"], document["container"]),
        ("size", human_bytes(document["bytes"]), f"{document['bytes']} bytes"),
        *(("input", text) for text in document["inputs"]),
        *(("output", text) for text in document["outputs"]),
        ("tested", "yes" if document["tested"] else "it loads; pass --test-data to run it"),
        ("sha256", document["sha256"] or ""),
    ]
    return [row for row in rows if row[1]]
