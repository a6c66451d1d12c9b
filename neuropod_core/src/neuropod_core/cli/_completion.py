"""What the shell may offer: platforms, distributions and packages, found without importing a plugin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from neuropod_core.plugins import Plugin

__all__ = ["complete_distributions", "complete_packages", "complete_platforms", "complete_plugins"]


def complete_platforms(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the platforms that are served here."""
    del context, parameter
    return _items(((plugin.platform, str(plugin)) for plugin in _installed()), begun)


def complete_distributions(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the distributions that bring plugins."""
    del context, parameter
    return _items(((plugin.distribution, plugin.version) for plugin in _installed()), begun)


def complete_plugins(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer both."""
    return complete_platforms(context, parameter, begun) + complete_distributions(context, parameter, begun)


def complete_packages(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Let the shell offer files and folders."""
    del context, parameter
    return [CompletionItem(begun, type="file")]


def _items(found: Iterable[tuple[str, str]], begun: str) -> list[CompletionItem]:
    named = dict(found)
    return [CompletionItem(name, help=note) for name, note in sorted(named.items()) if name.startswith(begun)]


def _installed() -> tuple[Plugin, ...]:
    from neuropod_core.plugins import installed

    return installed()
