"""Models written in plain Python for neuropod: the platform ``python``.

`create_python_neuropod` and `create_pytorch_neuropod` write packages; `neuropod_core.load_neuropod` finds the backend
by itself.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuropod_python.packagers import CodePath, DataPath, create_python_neuropod, create_pytorch_neuropod

__all__ = ["CodePath", "DataPath", "create_python_neuropod", "create_pytorch_neuropod"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version("neuropod-python")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from neuropod_python import packagers

    return getattr(packagers, name)
