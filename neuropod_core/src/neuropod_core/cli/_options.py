"""Options that several commands take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["asked", "json_option", "limit_option", "load_options", "verbose_option"]

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


def load_options(command: _Command) -> _Command:
    """Add the options that say how a model is loaded; they arrive as the arguments of `load_neuropod`."""
    for option in reversed(_LOAD_OPTIONS):
        command = option(command)
    return command


_LOAD_OPTIONS = (
    click.option("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1, or auto.", show_default=True),
    click.option(
        "--trust",
        type=click.Choice(["data", "graph", "code"]),
        default="graph",
        show_default=True,
        help="What kinds of artefact to admit: 'code' runs whatever code the package brings.",
    ),
    click.option("--backend", metavar="NAME", help="The distribution to use where several serve the platform."),
    click.option(
        "--option",
        "options",
        callback=lambda _context, _parameter, given: dict(map(_assignment, given)),
        multiple=True,
        metavar="NAME=VALUE",
        help="An option of the backend; again for more. `neuropod plugins` lists them. A value that is JSON (2, 0.5, "
        'true, "text") is taken as that, anything else as text.',
    ),
)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not like threads=2", param_hint="--option")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
