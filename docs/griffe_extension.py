"""Reads the docstrings of this repository as they are meant, for mkdocstrings.

What a function returns is told in sentences, since its type stands in its signature; numpydoc would take the first
line for a type. And a lone ``::`` before an indented block is reStructuredText, which Markdown shows as it is.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_SECTION = re.compile(r"(?m)^(Returns|Yields)\n-+\n((?:.*\S.*\n?)+)")
_LONE_COLONS = re.compile(r"(?m)^::\n")


def readable(text: str) -> str:
    """Give a docstring in the form that numpydoc's parser and Markdown read."""
    return _LONE_COLONS.sub("", _SECTION.sub(_unnamed, text + "\n")).rstrip("\n").replace("::\n\n    ", ":\n\n    ")


def _unnamed(section: re.Match[str]) -> str:
    body = "".join(f"    {line}\n" for line in section[2].splitlines())
    return f"{section[1]}\n{'-' * len(section[1])}\n:\n{body}"


class Sentences(Extension):  # type: ignore[misc]  # without its package, the base is Any
    """Applies `readable` to every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
