"""What the entry point names: the backend of platform ``tensorflow``, described without importing TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from neuropod_core import Backend, Descriptor, Executor, LoadOptions, Trust, Variant, hookimpl

__all__ = ["TensorFlowBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 1)
"""The contract that this plugin was written for."""

DESCRIPTOR = Descriptor(
    platform="tensorflow",
    trust=Trust.GRAPH,
    framework=(
        "tensorflow",
        "tensorflow-cpu",
        "tensorflow-intel",
        "tensorflow-macos",
        "tensorflow-rocm",
        "tensorflow-cpu-aws",
        "tf-nightly",
        "tf-nightly-cpu",
    ),
    framework_versions=">=2.16",
    install="pip install 'neuropod-tf[cpu]'",
    devices=("cpu", "cuda"),
    options=MappingProxyType(
        {
            "signature": "the signature of a SavedModel to run, instead of the packaged one or serving_default",
            "tags": "tags of the graph of a SavedModel to run, with commas between them, instead of serve",
            "intra_op_threads": "threads inside one operation; for a whole process, the first session decides",
            "inter_op_threads": "operations that run side by side; 1 runs them all in the caller's thread",
        }
    ),
    packagers=MappingProxyType(
        {
            "create_keras_neuropod": "neuropod_tf.packagers:create_keras_neuropod",
            "create_tensorflow_neuropod": "neuropod_tf.packagers:create_tensorflow_neuropod",
        }
    ),
    packs=MappingProxyType(
        {
            "*/": "create_tensorflow_neuropod:saved_model_dir",
            "*.pb": "create_tensorflow_neuropod:frozen_graph_path",
        }
    ),
)


class TensorFlowBackend(Backend):
    """Opens SavedModels and frozen graphs in a session of their own."""

    descriptor = DESCRIPTOR

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open the artefact and bind the problem's tensors to the model's."""
        from neuropod_tf.session import open_executor

        return open_executor(variant, options)

    def thread_settings(self) -> Mapping[str, Any]:
        """Give the threads inside one operation in this process, if TensorFlow is imported and they were ever set."""
        if not hasattr(sys.modules.get("tensorflow"), "config"):  # Not imported, or not yet.
            return {}
        from neuropod_tf._devices import threads_here

        return threads_here()

    def apply_thread_settings(self, settings: Mapping[str, Any]) -> None:
        """Have the first session ask for the same."""
        from neuropod_tf._devices import take_over_threads

        take_over_threads(settings)


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend of the one platform that this plugin serves."""
    del platform
    return TensorFlowBackend()
