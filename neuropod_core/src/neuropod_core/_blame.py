"""Whatever a plugin raises, worded as an error that names it and its own line."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from neuropod_core.errors import PluginError

__all__ = ["blaming"]


@contextmanager
def blaming(plugin: str, target: str, doing: str, distribution: str) -> Iterator[None]:
    """Turn whatever a plugin raises into an error that names it: there is no closed list of that.

    Parameters
    ----------
    plugin
        What it is called in the message.
    target
        Where it is, as its entry point says: ``module`` or ``module:object``.
    doing
        What was done with it, such as "importing neuropod_echo.plugin".
    distribution
        What to reinstall if a file of it is missing or spoilt; empty if it is not installed.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{type(error).__name__}: {error}".removesuffix(": ") + _line(error, target)
        remedy = "tell its author"
        if distribution and isinstance(error, ImportError | SyntaxError):
            remedy = f"reinstall it: pip install --force-reinstall {distribution}; or {remedy}"
        raise PluginError(plugin, f"{doing} raised {what}", remedy) from error


def _line(error: BaseException, target: str) -> str:
    """Say which line of the plugin's own package raised, or called what did, as a `SyntaxError` says of itself."""
    package = re.split(r"[.:]", target)[0]
    frames = traceback.walk_tb(error.__traceback__)
    own = [at for at in frames if str(at[0].f_globals.get("__name__")).partition(".")[0] == package]
    if isinstance(error, SyntaxError) or not own:
        return ""
    frame, line = own[-1]
    return f" ({os.path.basename(frame.f_code.co_filename)}, line {line})"  # noqa: PTH119 - a text
