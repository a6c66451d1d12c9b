"""Whether anybody but the caller can reach the memory of a result; what somebody can is copied.

CPython counts references, so that an array of its own memory with one reference and no weak one is the caller's alone:
views, buffers, DLPack capsules, tensors made from it and ctypes pointers all hold a reference. How many references the
functions here add themselves differs between versions of Python, so it is found out by trying, once, with the very
functions that look later. Where counts say nothing (free-threaded Python), everything is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import numpy as np

from neuropod_core.results import is_fresh

__all__ = [
    "WORDS",
    "are_all_private",
    "calibrate",
    "is_private_dict",
    "is_private_made",
    "is_private_view",
    "private_source",
]

_ndarray = np.ndarray
_MOST_COUNTED = 8
_OWNED_WRITEABLE = 0x0004 | 0x0400  # NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE: one look instead of two

_PAIRS = [(one, other) for one in range(1, _MOST_COUNTED) for other in range(1, _MOST_COUNTED)]

_Make = Callable[[], Any]

_of_results = _of_array = _of_view = _of_base = 0


def are_all_private(results: object) -> bool:
    """Tell whether `results` is a dictionary of arrays and nobody else holds it, or any of them, or their memory.

    To be called with a local variable that is the only other reference.
    """
    if type(results) is not dict or getrefcount(results) != _of_results:
        return False
    for array in results.values():
        if type(array) is not _ndarray or array.base is not None or getrefcount(array) != _of_array:
            return False
        if array.flags.num & _OWNED_WRITEABLE != _OWNED_WRITEABLE or getweakrefcount(array):
            return False
    return True


def private_source(count: int) -> list[str]:
    """Write what `are_all_private` looks at, as lines of a function whose variable `results` has `count` outputs.

    They return `results` if it is private, and else go on. They read `WORDS`, the outputs' names as ``name0`` and so
    on, and the counts that `calibrate` finds. Written out, they take half the time of a call.
    """
    lines = [f"if type(results) is dict and getrefcount(results) == of_results and len(results) == {count}:"]
    for place in range(count):
        indent = "    " * (place + 1)
        lines += [f"{indent}array = results[name{place}]", f"{indent}if {_PRIVATE_ARRAY}:"]
    lines += ["    " * (count + 1) + "return results"]
    return ["try:", *(f"    {line}" for line in lines), "except KeyError:", "    pass", "array = None"]


_PRIVATE_ARRAY = (
    "type(array) is ndarray and array.base is None and getrefcount(array) == of_array"
    f" and array.flags.num & {_OWNED_WRITEABLE} == {_OWNED_WRITEABLE} and not getweakrefcount(array)"
)
WORDS = {"ndarray": _ndarray, "getrefcount": getrefcount, "getweakrefcount": getweakrefcount}
"""What the lines of `private_source` read, but for the counts and the outputs' names."""


def calibrate(words: dict[str, Any], names: Sequence[str], returned: Callable[[_Make], bool]) -> None:
    """Find the counts for a function with the lines of `private_source` by running it; 0, which is none, if it errs.

    Parameters
    ----------
    words
        Its globals, where the counts go.
    names
        Of the outputs.
    returned
        Runs the function on what its argument makes, and tells whether the lines returned that.
    """
    words["of_results"] = words["of_array"] = 0
    if "t" in sys.abiflags:
        return
    for words["of_results"], words["of_array"] in _PAIRS:
        if returned(partial(_fresh, names)):
            break
    kept = dict(_fresh(names))
    held: list[_Make] = [lambda: kept]
    held += [partial(_fresh, names, kept=(name, array)) for name, array in kept.items()]
    held += [partial(_fresh, names, view_of=(name, array)) for name, array in kept.items()]
    if any(map(returned, held)):
        words["of_results"] = words["of_array"] = 0


def _fresh(names: Sequence[str], *, kept: tuple[str, Any] = ("", 0), view_of: tuple[str, Any] = ("", 0)) -> Any:
    """Make results that nobody holds, but for one array that is kept, or a view of it."""
    results = {name: np.zeros(2) for name in names}
    if kept[0]:
        results[kept[0]] = kept[1]
    if view_of[0]:
        results[view_of[0]] = view_of[1][:]
    return results


def is_private_dict(results: object) -> bool:
    """Tell whether `results` is a dictionary that nobody else holds.

    To be called with a local variable that is the only other reference.
    """
    return type(results) is dict and getrefcount(results) == _of_results


def is_private_view(array: object) -> bool:
    """Tell whether `array` is a contiguous view of most of an array that nobody else holds: ``(x @ w).reshape(-1)``.

    To be called with a local variable and one container as the only other references.
    """
    if type(array) is not _ndarray or getrefcount(array) != _of_view or getweakrefcount(array):
        return False
    base = array.base
    if type(base) is not _ndarray or getrefcount(base) != _of_base or getweakrefcount(base) or base.base is not None:
        return False
    return base.flags.owndata and array.flags.writeable and array.flags.forc and 2 * array.nbytes >= base.nbytes


def is_private_made(array: object) -> bool:
    """Tell whether `array` was made by `neuropod_core.results.empty` for this call, in memory that the caller will see.

    To be called like `is_private_view`. The placement holds one reference, and nobody else may: whoever has one could
    write to it once it is the caller's.
    """
    if type(array) is not _ndarray or not _of_view or getrefcount(array) != _of_view + 1 or getweakrefcount(array):
        return False
    # Where the memory is an array of its own class, views of `array` refer to it; else they would refer to that memory.
    return isinstance(array.base, _ndarray) and type(array.base) is not _ndarray and is_fresh(array)


def _seen_among_results(make: Callable[[], Any]) -> bool:
    results = make()
    return are_all_private(results)


def _seen_as_view(make: Callable[[], Any]) -> bool:
    for array in make().values():
        return is_private_view(array)
    return False


def _calibrate() -> None:
    """Find the counts at which the functions above say yes to what is private; leave 0, which is none, if they err."""
    global _of_results, _of_array, _of_view, _of_base  # noqa: PLW0603 - constants of this interpreter
    for _of_results, _of_array in _PAIRS:
        if _seen_among_results(lambda: {"y": np.zeros(2)}):
            break
    for _of_view, _of_base in _PAIRS:
        if _seen_as_view(lambda: {"y": np.zeros(2).reshape(2, 1)}):
            break
    kept: dict[str, Any] = {"y": np.zeros(2)}
    view: dict[str, Any] = {"y": kept["y"].reshape(2, 1)}
    held = (lambda: kept, lambda: dict(kept), lambda: view, lambda: {"y": kept["y"].reshape(2, 1)})
    if "t" in sys.abiflags or any(_seen_among_results(make) or _seen_as_view(make) for make in held):
        _of_results = _of_array = _of_view = _of_base = 0


_calibrate()
