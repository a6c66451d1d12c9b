"""``neuropod completion``: the script that teaches a shell the commands, their options, platforms and packages."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from neuropod_core.cli._options import verbose_option

__all__ = ["completion"]

_VARIABLE = "_NEUROPOD_COMPLETE"  # What click looks for when it runs as `neuropod`.

_EPILOG = """\b
To have it in every shell from now on:
  bash:  echo 'eval "$(neuropod completion bash)"' >> ~/.bashrc
  zsh:   echo 'eval "$(neuropod completion zsh)"' >> ~/.zshrc
  fish:  neuropod completion fish > ~/.config/fish/completions/neuropod.fish
"""


@click.command(epilog=_EPILOG, short_help="Teach a shell to complete this command.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@verbose_option
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL, to be evaluated by it.

    Commands, options and their choices are completed, platforms and distributions that are installed, and files where
    a package or a model is named. bash must be of version 4.4 or later.
    """
    known = get_completion_class(shell)
    if known is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(known(context.find_root().command, {}, "neuropod", _VARIABLE).source())
