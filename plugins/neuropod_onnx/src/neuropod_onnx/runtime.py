"""From a variant on disk to an executor."""

from __future__ import annotations

from functools import partial
from typing import Any

from neuropod_core.backend import LoadOptions
from neuropod_core.variants import Variant
from neuropod_onnx._dimensions import fixed_dimensions
from neuropod_onnx._executor import OnnxExecutor
from neuropod_onnx._kept import kept_model
from neuropod_onnx._options import run_options, session_options
from neuropod_onnx._session import open_session
from neuropod_onnx._signature import Signature, match, node_names
from neuropod_onnx.contents import check_external, read_contents

__all__ = ["load"]


def load(variant: Variant, options: LoadOptions) -> OnnxExecutor:
    """Open the model of `variant` as `options` say; see `Backend.load`."""
    path = variant.artefact("data/model.onnx")
    contents = read_contents(path)
    check_external(contents, path.parent)
    mapping = node_names(variant.config)
    dimensions = fixed_dimensions(options, variant.problem, contents, mapping)
    kept = kept_model(options, path, contents, variant.custom_ops, dimensions)
    session = open_session(path, options, partial(session_options, options, variant.custom_ops, dimensions), kept)
    signature = match(variant.problem, session, contents, mapping)
    return OnnxExecutor(session, run_options(options), signature, _facts(session, signature))


def _facts(session: Any, signature: Signature) -> dict[str, object]:
    import onnxruntime

    asked = session.get_session_options()
    return {
        "framework": "onnxruntime",
        "framework_version": onnxruntime.__version__,
        "providers": list(session.get_providers()),
        "intra_op_threads": asked.intra_op_num_threads or "default",
        "inter_op_threads": asked.inter_op_num_threads or "default",
        "inputs": {port.name: port.node for port in signature.inputs},
        "outputs": {port.name: port.node for port in signature.outputs},
    }
