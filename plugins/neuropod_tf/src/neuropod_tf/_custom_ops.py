"""Libraries of custom operators: what would spoil those of other models is known before TensorFlow loads it.

TensorFlow takes a second library that registers an operator without a word, and from then on refuses to run that
operator for anybody: it has two kernels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from neuropod_core.custom_ops import bytes_of, clash, load_once

__all__ = ["load_custom_ops"]

_NAME = re.compile(rb"(?<![A-Za-z0-9_])[A-Z][A-Za-z0-9_>]{1,127}(?=\0)")


def load_custom_ops(libraries: Sequence[Path]) -> None:
    """Load libraries that this process does not have yet, recognised by content wherever they lie.

    Raises
    ------
    CustomOpError
        If one cannot be loaded, or registers what is registered already.
    """
    if not libraries:
        return
    import tensorflow as tf

    load_once(f"tensorflow {tf.__version__}", libraries, _Loader())


class _Loader:
    """Loads the libraries of one package, of which one may hold kernels for the operators of another."""

    def __init__(self) -> None:
        self._own: set[str] = set()

    def __call__(self, library: Path) -> None:
        import tensorflow as tf

        with bytes_of(library) as content:
            names = {name.decode() for name in _NAME.findall(content)}
        known = {name for name in names if _is_registered(name)}
        if known - self._own:
            raise clash(library, ", ".join(sorted(known - self._own)[:3]))
        tf.load_op_library(str(library))
        self._own |= {name for name in names if _is_registered(name)}


def _is_registered(name: str) -> bool:
    """Tell whether an operator is registered that did not come with TensorFlow."""
    from tensorflow import raw_ops

    try:
        from tensorflow.python.framework import op_def_registry
    except ImportError:  # It is no public module; without it, TensorFlow itself says what it does not like.
        return False
    return op_def_registry.get(name) is not None and not hasattr(raw_ops, name)
