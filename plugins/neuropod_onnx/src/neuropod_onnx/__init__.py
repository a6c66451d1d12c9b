"""ONNX models for neuropod, run by ONNX Runtime.

>>> from neuropod_onnx import create_onnx_neuropod
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuropod_onnx.packagers import create_onnx_neuropod

__all__ = ["__version__", "create_onnx_neuropod"]


def __getattr__(name: str) -> Any:
    if name == "create_onnx_neuropod":
        from neuropod_onnx.packagers import create_onnx_neuropod

        return create_onnx_neuropod
    if name == "__version__":
        return metadata.version("neuropod-onnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
