"""TensorFlow for neuropod: packages and runs SavedModels, frozen graphs and Keras models.

Importing this imports no TensorFlow; writing a package does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuropod_tf.packagers import create_keras_neuropod, create_tensorflow_neuropod

__all__ = ["create_keras_neuropod", "create_tensorflow_neuropod"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from neuropod_tf import packagers

        return getattr(packagers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
