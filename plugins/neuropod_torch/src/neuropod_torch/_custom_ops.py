"""Libraries of custom operators: what would take the process down is known before torch loads it.

A second ``TORCH_LIBRARY`` of one namespace, or a second operator of one name, ends the process while the library is
loaded: nothing can catch that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from mmap import mmap
from pathlib import Path

import torch

from neuropod_core.custom_ops import bytes_of, clash, load_once

__all__ = ["load_custom_ops"]

# What torch 2.x registers itself. Libraries add kernels to these, and name their operators without defining them.
_OF_TORCH = frozenset(
    [
        *(
            "aten",
            "c10d",
            "debug_mode_ops",
            "debugprims",
            "export",
            "higher_order",
            "inductor",
            "inductor_prims",
            "mkl",
        ),
        *("mkldnn", "mkldnn_prepacked", "onednn", "prim", "prims", "profiler", "quantization", "quantized", "rngprims"),
        *("sparse", "static_runtime", "symm_mem", "torchbind", "xnnpack"),
    ]
)
_SYMBOL = b"TORCH_LIBRARY_init_"  # The function that fills a namespace, as TORCH_LIBRARY names it.
_MANGLED = re.compile(rb"(\d{2,3})" + _SYMBOL + rb"(\w+)")  # Behind the length of its name.


def load_custom_ops(libraries: Sequence[Path]) -> None:
    """Load libraries that this process does not have yet, recognised by content wherever they lie.

    Raises
    ------
    CustomOpError
        If one cannot be loaded, or registers what is registered already.
    """
    load_once(f"torch {torch.__version__}", libraries, _Loader())


class _Loader:
    """Loads the libraries of one package, of which one may add kernels to the operators of another."""

    def __init__(self) -> None:
        self._before: Mapping[str, set[str]] | None = None

    def __call__(self, library: Path) -> None:
        if self._before is None:
            self._before = _registered()
        with bytes_of(library) as content:
            namespaces = _defined_in(content)
            twice = [namespace for namespace in namespaces if _is_defined(namespace)]
            names = twice or _named_again(
                content, self._before, bare=not namespaces and b"TORCH_LIBRARY_" not in content
            )
        if names:
            raise clash(library, ", ".join(names))
        torch.ops.load_library(str(library))


def _registered() -> dict[str, set[str]]:
    """Give the names of operators that did not come with torch, by namespace."""
    found: dict[str, set[str]] = {}
    for name in torch._C._dispatch_get_all_op_names():  # noqa: SLF001 - no public function lists them
        namespace, _, operator = name.partition("::")
        if namespace not in _OF_TORCH and not namespace.startswith("_"):
            found.setdefault(namespace, set()).add(operator.partition(".")[0])
    return found


def _defined_in(content: mmap) -> list[str]:
    """List the namespaces that a library defines, by the names of its functions; a stripped one has none."""
    found = (name[: int(length) - len(_SYMBOL)] for length, name in _MANGLED.findall(content))
    return sorted({name.decode() for name in found if name})


def _is_defined(namespace: str) -> bool:
    """Tell whether a namespace is defined: torch refuses a second definition, in Python by an error."""
    try:
        trial = torch.library.Library(namespace, "DEF")
    except (RuntimeError, ValueError):
        return True
    trial._destroy()  # noqa: SLF001 - what torch's own tests end a library by
    return False


def _named_again(content: mmap, registered: Mapping[str, set[str]], *, bare: bool) -> list[str]:
    """List registered operators that a library defines by their schemas, or by name (`bare`) if it is stripped."""
    again = []
    for namespace, names in registered.items():
        prefix, choice = re.escape(namespace.encode()), b"|".join(re.escape(name.encode()) for name in sorted(names))
        has_namespace = re.search(rb"\0" + prefix + rb"\0", content) is not None
        after = rb"[\0.(]" if bare else rb"(?:\.\w+)?\("
        pattern = rb"\0(?:" + prefix + rb"::" + (b")?(" if has_namespace else b")(") + choice + rb")" + after
        found = re.search(pattern, content)
        if found:
            again.append(f"{namespace}::{found[1].decode()}")
    return again
