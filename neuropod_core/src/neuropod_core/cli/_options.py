"""Options that several commands take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from neuropod_core.cli._completion import complete_distributions
from neuropod_core.cli._errors import Code

__all__ = [
    "ask_for_command",
    "asked",
    "assignments",
    "json_option",
    "limit_option",
    "load_options",
    "loading_arguments",
    "named_values",
    "verbose_option",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document, errors included.")

verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, help="Show debug logs, and tracebacks of errors."
)  # `asked` looks for it: an error may come before it is parsed.

limit_option = click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long importing one plugin may take before it is given up.",
)


def asked(arguments: list[str], *names: str) -> bool:
    """Tell whether one of the flags `names` was given, even where the rest cannot be parsed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in names for argument in options)


def ask_for_command(context: click.Context) -> None:
    """Where a group is called without one of its commands, show its help and exit as for any wrong usage."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(Code.USAGE)


def named_values(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Read options like ``threads=2``: a value that is JSON is taken as that, anything else as text."""
    return {name: _value(text) for name, text in assignments(context, parameter, given).items()}


def assignments(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Read options like ``image=input:0``."""
    del context
    parts = [(text, *text.partition("=")) for text in given]
    for text, name, equals, _ in parts:
        if not name or not equals:
            example = "threads=2" if "VALUE" in (parameter.metavar or "") else "name=text"
            raise click.BadParameter(f"{text!r} is not like {example}", param_hint=parameter.opts[0])
    return {name: value for _, name, _, value in parts}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def loading_arguments(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Give the arguments of `load_neuropod` that `load_options` and a command's own options `names` stand for."""
    arguments = {name: given[name] for name in ("device", "trust", "backend", "options", *names)}
    settings = {name: given[name] for name in ("environment", "replicas") if given[name] is not None}
    if given["placement"] == "worker":
        from neuropod_core.placement import Worker

        return {**arguments, "placement": Worker(**settings)}
    if settings:
        raise click.UsageError(f"--{min(settings)} goes with --placement worker")
    return arguments


def load_options(command: _Command) -> _Command:
    """Add the options that say how a model is loaded; they arrive as the arguments of `load_neuropod`."""
    for option in reversed(_LOAD_OPTIONS):
        command = option(command)
    return command


_LOAD_OPTIONS = (
    click.option("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1, or auto.", show_default=True),
    click.option(
        "--trust",
        type=click.Choice(["data", "graph", "code", "sandboxed"]),
        default="graph",
        show_default=True,
        help="What kinds of artefact to admit: 'code' runs whatever code the package brings; 'sandboxed' does so in a "
        "worker without network that writes no files (with --placement worker).",
    ),
    click.option(
        "--placement",
        type=click.Choice(["in_process", "worker"]),
        default="in_process",
        show_default=True,
        help="Where the model runs: in this process, or in another one.",
    ),
    click.option(
        "--environment",
        metavar="PATH",
        help="With --placement worker: the interpreter or virtual environment that runs it, or 'package' for the one "
        "that the package's lock describes.",
    ),
    click.option(
        "--replicas", type=click.IntRange(min=1), metavar="N", help="With --placement worker: how many processes."
    ),
    click.option(
        "--backend",
        metavar="NAME",
        shell_complete=complete_distributions,
        help="The distribution to use where several serve the platform.",
    ),
    click.option(
        "--option",
        "options",
        callback=named_values,
        multiple=True,
        metavar="NAME=VALUE",
        help="An option of the backend; again for more. `neuropod plugins` lists them. A value that is JSON (2, 0.5, "
        'true, "text") is taken as that, anything else as text.',
    ),
)
