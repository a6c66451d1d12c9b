"""``neuropod verify``: everything that can be checked about packages, step by step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._completion import complete_packages
from neuropod_core.cli._errors import Code, code_of, document_of, line_of, surviving_exit
from neuropod_core.cli._options import json_option, load_options, loading_arguments, verbose_option
from neuropod_core.cli._output import Output, Report, Table, fetching

if TYPE_CHECKING:
    from neuropod_core.model import Neuropod
    from neuropod_core.package import Package
    from neuropod_core.sources import OnTransfer, Transfer

__all__ = ["verify"]

_STEPS = ("format", "hashes", "load", "test")

_logger = logging.getLogger("neuropod")

_EPILOG = """\b
Examples:
  neuropod verify digits.neuropod
  neuropod verify --trust code *.neuropod
  neuropod verify --no-load *.neuropod --json | jq '.packages[] | select(.status != "ok")'
"""


@click.command(epilog=_EPILOG, short_help="Check hashes, loading and test data of packages.")
@click.argument("packages", metavar="PACKAGE...", nargs=-1, required=True, shell_complete=complete_packages)
@load_options
@click.option("--no-load", is_flag=True, help="Check format and hashes only: no backend is needed, no model is opened.")
@json_option
@verbose_option
def verify(packages: tuple[str, ...], *, no_load: bool, as_json: bool, **loading: Any) -> None:
    """Check each PACKAGE: its format, its hashes, that it loads, and that its test data gives the packaged results.

    A step that fails ends the checks of its package, not those of the others. Exits with the code of what failed (see
    neuropod --help); with 1, if packages failed for different reasons. In a pipe, each line is: step, package, name of
    the step, status (ok, failed, skipped), detail.
    """
    output = Output(as_json=as_json)
    with output.claimed():
        verified = [_verified(package, loading, no_load=no_load) for package in packages]
    output.show(_report(verified))
    codes = {package["exit_code"] for package in verified} - {Code.OK}
    if codes:
        raise click.exceptions.Exit(codes.pop() if len(codes) == 1 else Code.CHECK_FAILED)


def _verified(source: str, loading: dict[str, Any], *, no_load: bool) -> dict[str, Any]:
    done: list[dict[str, Any]] = []
    code = Code.OK
    with ExitStack() as opened:
        checks = _Checks(source, loading, opened, no_load=no_load)
        for step in _STEPS:
            with fetching(source, f"{source}: {step}") as checks.on_transfer:
                outcome, code = _outcome(getattr(checks, step), f"{source}: {step}")
            done.append({"step": step, **outcome})
            if code:
                break
    return {"package": source, "status": "failed" if code else "ok", "exit_code": int(code), "steps": done}


def _outcome(check: Callable[[], dict[str, Any]], title: str) -> tuple[dict[str, Any], Code]:
    try:
        with surviving_exit():
            return check(), Code.OK
    except Exception as error:  # The other packages are checked whatever this one does.
        _logger.debug("%s failed", title, exc_info=error)
        return {"status": "failed", "detail": line_of(error), "error": document_of(error)}, code_of(error)


class _Checks:
    """The steps for one package, to be taken in their order; each raises what is wrong."""

    def __init__(self, source: str, loading: dict[str, Any], opened: ExitStack, *, no_load: bool) -> None:
        self._source, self._loading, self._opened, self._no_load = source, loading, opened, no_load
        self.on_transfer: OnTransfer | None = None

    def format(self) -> dict[str, Any]:
        from neuropod_core.package import Package

        self._package: Package = self._opened.enter_context(Package.open(self._source, on_transfer=self._transferred))
        config = self._package.config
        self._package.variant_config()
        return _ok(f"{config.name} ({config.platform}), {len(self._package.files)} files")

    def hashes(self) -> dict[str, Any]:
        self._package.verify()
        if self._package.manifest is None:
            return _skipped("it has no manifest")
        return _ok(f"{len(self._package.manifest.files)} files as the manifest says")

    def load(self) -> dict[str, Any]:
        from neuropod_core.loading import load_neuropod

        if self._no_load:
            return _skipped("by --no-load")
        loaded = load_neuropod(self._source, on_transfer=self._transferred, **loading_arguments(self._loading))
        self._model: Neuropod = self._opened.enter_context(loaded)
        return _ok(f"{loaded.platform} {loaded.framework_version}".strip())

    def test(self) -> dict[str, Any]:
        if self._package.test_data() is None:
            return _skipped("there is none")
        if self._no_load:
            return _skipped("by --no-load")
        differences = self._model.test()
        return {**_ok(f"largest difference {max(differences.values(), default=0.0):.3g}"), "differences": differences}

    def _transferred(self, transfer: Transfer) -> None:
        if self.on_transfer is not None:
            self.on_transfer(transfer)


def _ok(detail: str) -> dict[str, Any]:
    return {"status": "ok", "detail": detail}


def _skipped(detail: str) -> dict[str, Any]:
    return {"status": "skipped", "detail": detail}


def _report(verified: list[dict[str, Any]]) -> Report:
    rows = [
        (package["package"], step["step"], step["status"], step["detail"])
        for package in verified
        for step in package["steps"]
    ]
    return Report({"packages": verified}, [Table("step", ("package", "step", "status", "detail"), rows, wide="detail")])
