"""``neuropod info``: what a package is, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._completion import complete_packages
from neuropod_core.cli._errors import Code, document_of
from neuropod_core.cli._options import json_option, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, Table, fetching
from neuropod_core.cli._text import human_bytes

if TYPE_CHECKING:
    from neuropod_core.package import Package
    from neuropod_core.problem import TensorSpec

__all__ = ["info"]


_EPILOG = """\b
Examples:
  neuropod info digits.neuropod
  neuropod info digits.neuropod | grep ^input
  neuropod info digits.neuropod --json | jq .problem.inputs
"""


@click.command(epilog=_EPILOG, short_help="Show what a package is, without running it.")
@click.argument("package", metavar="PACKAGE", shell_complete=complete_packages)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Compare the files with their hashes, or be quick. Default: compare what lies on this machine, fetch nothing.",
)
@json_option
@verbose_option
def info(package: str, *, verify: bool | None, as_json: bool) -> None:
    """Show what PACKAGE is: its problem, its files, what it needs to run.

    PACKAGE is a folder or a zip file: a path, a file:// URL, package+https://..., or a URL that fsspec reads. Behind a
    URL, only what describes the package is read, unless --verify asks for all of it. The model is not run and no
    framework is imported. Exits with 1 if a file is not what the manifest says.

    In a pipe, the first field of a line is input, output, file, or the name of a fact. An input or output goes on with
    its name, type and shape, required or optional, unit and description.
    """
    from neuropod_core.package import Package

    with fetching(package, "reading the package") as shown, Package.open(package, on_transfer=shown) as opened:
        document = _document(opened, verify=opened.is_here if verify is None else verify)
    Output(as_json=as_json).show(Report(document, _blocks(document)))
    if document["manifest"]["status"] == "failed":
        raise click.exceptions.Exit(Code.CHECK_FAILED)


# -- the document -----------------------------------------------------------------------------------------------------


def _document(package: Package, *, verify: bool) -> dict[str, Any]:
    config = package.config
    manifest = _manifest(package, verify=verify)
    backend = _backend(package, look_inside=manifest["status"] in ("verified", "absent") and verify)
    return {
        "name": config.name,
        "package": package.place,
        "container": package.kind,
        "platform": config.platform,
        "platform_version": config.platform_version,
        "problem": _problem(package),
        "trust": backend.pop("trust"),
        "custom_ops": list(config.custom_ops),
        "custom_op_targets": dict(config.custom_op_targets),
        "input_devices": dict(config.input_devices),
        "test_data": package.test_data_file,
        "backend": backend,
        "manifest": manifest,
        "bytes": sum(package.files.values()),
        "files": [{"path": path, "bytes": size} for path, size in package.files.items()],
    }


def _problem(package: Package) -> dict[str, Any]:
    problem = package.config.problem
    return {
        "name": problem.name,
        "description": problem.description,
        "ties_outputs": problem.ties_outputs,
        "inputs": [_spec(spec) for spec in problem.inputs],
        "outputs": [_spec(spec) for spec in problem.outputs],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": spec.dtype.value,
        "shape": list(spec.shape),
        "notation": spec.notation,
        "optional": spec.optional,
        "unit": spec.unit,
        "description": spec.description,
    }


def _manifest(package: Package, *, verify: bool) -> dict[str, Any]:
    from neuropod_core.errors import PackageError

    if package.manifest is None:
        return {"status": "absent"}
    if not verify:
        return {"status": "not verified"}
    try:
        if package.kind == "folder":
            package.folder()  # It remembers what it has verified.
        else:
            package.verify()  # Without unpacking.
    except PackageError as error:
        return {"status": "failed", "error": document_of(error)}
    return {"status": "verified"}


def _backend(package: Package, *, look_inside: bool) -> dict[str, Any]:
    """Tell what would run the package here, or why nothing would; and which trust it needs."""
    from neuropod_core.errors import NeuropodError
    from neuropod_core.loading import trust_needed
    from neuropod_core.plugins import backend_for, check_framework

    known: dict[str, Any] = {"status": "ok", **_claimant(package.config.platform), "trust": _least_trust(package)}
    try:
        backend = backend_for(package.config.platform)
        needed, why = trust_needed(package, backend, look_inside=look_inside)
        known["trust"] = {"needed": needed.value, "why": why}
        known["framework"] = next(iter(backend.descriptor.framework), None)
        known["framework_version"] = backend.framework_version()
        check_framework(backend, package.config.platform_version, f"package {package.config.name!r}")
    except NeuropodError as error:
        return known | {"status": "missing", "error": document_of(error)}
    return known


def _claimant(platform: str) -> dict[str, str]:
    from neuropod_core.plugins import installed

    usable = [plugin for plugin in installed() if plugin.platform == platform and not plugin.blocked_by]
    return {"distribution": usable[0].distribution, "version": usable[0].version} if len(usable) == 1 else {}


def _least_trust(package: Package) -> dict[str, str | None]:
    if package.has_custom_ops():
        return {"needed": "code", "why": "it brings native libraries in 0/ops"}
    return {"needed": None, "why": "only its backend knows"}


# -- for people -------------------------------------------------------------------------------------------------------


def _blocks(document: dict[str, Any]) -> list[Facts | Table]:
    problem, files = document["problem"], [(file["path"], file["bytes"]) for file in document["files"]]
    tensors = [(side, *_tensor(spec)) for side in ("input", "output") for spec in problem[f"{side}s"]]
    people = [(path, human_bytes(size)) for path, size in files]
    return [
        Facts([row for row in _facts(document) if row[1]]),
        Table("", ("side", "name", "tensor", "presence", "unit", "description"), tensors, wide="description"),
        Table("file", ("file", "size"), people, plain_rows=files),
    ]


def _tensor(spec: dict[str, Any]) -> tuple[str, ...]:
    return (
        spec["name"],
        spec["notation"],
        "optional" if spec["optional"] else "required",
        spec["unit"],
        spec["description"],
    )


def _facts(document: dict[str, Any]) -> list[tuple[str, ...]]:
    problem, trust = document["problem"], document["trust"]
    return [
        ("name", document["name"]),
        ("package", document["package"], document["container"]),
        ("size", human_bytes(document["bytes"]), f"{document['bytes']} bytes in {len(document['files'])} files"),
        ("platform", document["platform"]),
        ("platform version", document["platform_version"]),
        ("problem", problem["name"]),
        ("description", problem["description"]),
        ("rules", "" if problem["ties_outputs"] else "every tensor is optional, symbols tie the inputs only"),
        ("trust", trust["needed"] or "unknown", trust["why"]),
        ("custom ops", ", ".join(_custom_ops(document))),
        ("input devices", ", ".join(f"{name} {device}" for name, device in document["input_devices"].items())),
        ("test data", document["test_data"] or "none"),
        ("backend", document["backend"]["status"], _backend_words(document["backend"])),
        ("manifest", document["manifest"]["status"], document["manifest"].get("error", {}).get("message", "")),
    ]


def _custom_ops(document: dict[str, Any]) -> list[str]:
    targets = document["custom_op_targets"]
    return [f"{name} ({targets[name]})" if name in targets else name for name in document["custom_ops"]]


def _backend_words(backend: dict[str, Any]) -> str:
    if "error" in backend:
        return str(backend["error"]["message"])
    words = [backend.get("distribution"), backend.get("version"), "with" if backend.get("framework_version") else ""]
    return " ".join(filter(None, [*words, backend.get("framework"), backend.get("framework_version")]))
