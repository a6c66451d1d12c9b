"""Reads the JSON of a package: bounded, strict, and with errors that say where."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from neuropod_core.errors import PackageFormatError, PackageLimitError, shown

_DEEPEST = 32


def parse_object(data: bytes, at: str) -> dict[str, Any]:
    """Parse one JSON object: UTF-8, no repeated keys, no NaN, at most 32 levels.

    Raises
    ------
    PackageFormatError, PackageLimitError
        If it is anything else; `at` names the file.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
        )
    except RecursionError:
        raise PackageLimitError("levels of JSON", _DEEPEST, 1000, at) from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too.
        raise PackageFormatError(f"is no JSON: {error}", at) from error
    if not isinstance(value, dict):
        raise PackageFormatError(f"expected a JSON object, got {shown(value)}", at)
    _check_values(value, at)
    return value


def dump(value: object) -> bytes:
    """Write JSON as the original tool does: indented by four, keys sorted, no final newline."""
    return json.dumps(value, indent=4, sort_keys=True, allow_nan=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {shown(twice)} comes twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no JSON number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_values(value: object, at: str) -> None:
    """Look at every value without recursion: how deep it lies, and whether its text can be written as UTF-8."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        if not level:
            return
        for text in level:
            if isinstance(text, str) and not text.isascii():
                _check_text(text, at)
        below = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in below for part in (item if isinstance(item, list) else (*item, *item.values()))]
    if level:
        raise PackageLimitError("levels of JSON", _DEEPEST, _DEEPEST + 1, at)


def _check_text(text: str, at: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PackageFormatError(f"{shown(text)} is no text that UTF-8 can hold", at) from None
