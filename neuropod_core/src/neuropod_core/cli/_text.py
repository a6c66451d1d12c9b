"""Text on its way to a terminal, some of which somebody else wrote."""

from __future__ import annotations

import re
import signal

from neuropod_core.errors import visible

__all__ = ["clean", "clean_lines", "human_bytes", "signal_name"]

_BREAK = re.compile(r"[ \t\n\r\f\v]*[\t\n\r\f\v][ \t\n\r\f\v]*")
_BYTES_PER_STEP = 1024


def clean(value: object) -> str:
    r"""Give `value` as one line that can be printed: escape sequences and other invisible characters are spelled out.

    >>> print(clean("a" + chr(27) + "[2J b"))
    a\x1b[2J b
    """
    return visible(_BREAK.sub(" ", str(value)))


def clean_lines(text: str) -> str:
    """Clean a text of several lines, and keep its lines and their indentation."""
    return "\n".join(map(visible, text.split("\n")))


def signal_name(number: int) -> str:
    """Give the name of a signal, as `kill -l` does."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def human_bytes(count: int) -> str:
    """Give a number of bytes for people: ``1.5 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _BYTES_PER_STEP:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _BYTES_PER_STEP
    return f"{size:.1f} TiB"
