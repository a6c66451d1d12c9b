"""What the core finds: a backend of platform ``onnx``. Imports no framework."""

from neuropod_core import Backend, Descriptor, DType, Executor, LoadOptions, Trust, Variant, hookimpl

__all__ = ["OpenVINOBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 0)

# OpenVINO computes float64 in float32, uint64 in 32 bits, and its tensors of text crash it when they are freed.
_REFUSED = {DType.FLOAT64, DType.UINT64, DType.BFLOAT16, DType.STRING}


class OpenVINOBackend(Backend):
    """Opens ``.onnx`` models with OpenVINO, on the CPU."""

    descriptor = Descriptor(
        platform="onnx",
        trust=Trust.DATA,
        framework=("openvino",),
        framework_versions=">=2026.4",
        install="pip install neuropod-openvino",
        dtypes=frozenset(set(DType) - _REFUSED),
        options={
            "threads": "threads that a call may use (default: as many as OpenVINO sees fit)",
            "precision": "what it computes in: 'f32' (default), or 'bf16' or 'f16' where the CPU has it",
        },
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Compile the model of `variant` for the CPU."""
        from neuropod_openvino.runtime import OpenVINOExecutor, compile_model

        return OpenVINOExecutor(compile_model(variant, options), variant)


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend of platform ``onnx``."""
    del platform
    return OpenVINOBackend()
