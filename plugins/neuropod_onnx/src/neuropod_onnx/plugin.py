"""What the core finds: the descriptor of platform ``onnx`` and its backend. Imports no framework."""

from __future__ import annotations

from neuropod_core.backend import Backend, Descriptor, Executor, LoadOptions
from neuropod_core.hookspecs import hookimpl
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant

__all__ = ["OnnxBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 0)  # What it needs: a core of contract 1.1 asks its executors for native results, too.

_OPTIONS = {
    "providers": "execution providers in order: names, or pairs of a name and a table of options; all must run",
    "provider_library": "table of names to paths: libraries of execution providers, to be registered under these names",
    "fallback": "true: run on the CPU where a provider that was asked for cannot be had (default false: an error)",
    "intra_op_threads": "threads that one operator may use (default: one for each physical core)",
    "inter_op_threads": "operators that may run at once; needs execution_mode 'parallel' (default: 1)",
    "execution_mode": "'sequential' (default) or 'parallel'",
    "graph_optimization_level": "'none', 'basic', 'extended', 'layout' or 'all' (default)",
    "optimized_models": "true or a folder: keep the optimized graph there for later loads on the CPU (default false)",
    "free_dimensions": "table of the problem's symbols to lengths that they have in every call; plans for these alone",
    "memory_pattern": "whether memory of a call is planned ahead for shapes that were seen before (default true)",
    "memory_reuse": "whether tensors inside a call take the memory of others that are done with (default true)",
    "memory_arena": "whether freed memory of the CPU is kept for later calls (default true)",
    "deterministic": "whether kernels are chosen that give the same bits each time (default false)",
    "allow_spinning": "whether idle threads spin for a while before they sleep (default true)",
    "session_config": "table of ONNX Runtime's own session configuration entries, text to text",
    "log_severity": "what ONNX Runtime logs to stderr: 0 everything ... 3 errors, 4 fatal errors only (default)",
}


class OnnxBackend(Backend):
    """Opens ``.onnx`` models with ONNX Runtime."""

    descriptor = Descriptor(
        platform="onnx",
        trust=Trust.DATA,
        framework=(
            "onnxruntime",
            "onnxruntime-gpu",
            "onnxruntime-openvino",
            "onnxruntime-directml",
            "onnxruntime-rocm",
            "onnxruntime-migraphx",
            "onnxruntime-qnn",
            "onnxruntime-training",
        ),
        framework_versions=">=1.17",
        install="pip install 'neuropod-onnx[cpu]'",
        devices=("cpu", "cuda"),
        options=_OPTIONS,
        packagers={"create_onnx_neuropod": "neuropod_onnx.packagers:create_onnx_neuropod"},
        packs={"*.onnx": "create_onnx_neuropod:model_path"},
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open the model of `variant`; its files are looked at before ONNX Runtime sees them.

        Raises
        ------
        PackageFormatError
            If the model and the problem contradict each other, or tensors lie outside of the model's folder.
        ModelLoadError, DeviceError, OptionError
            As `Backend.load` says.
        """
        from neuropod_onnx.runtime import load

        return load(variant, options)

    def trust_needed(self, variant: Variant) -> Trust:
        """Need ``code`` for a model with operators that carry compiled code, else what the descriptor says."""
        from neuropod_onnx.contents import read_contents

        contents = read_contents(variant.artefact("data/model.onnx"))
        return Trust.CODE if contents.code_operator else self.descriptor.trust


_BACKEND = OnnxBackend()


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend of platform ``onnx``."""
    del platform
    return _BACKEND
