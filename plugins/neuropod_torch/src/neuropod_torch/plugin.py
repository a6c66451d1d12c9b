"""The plugin object that the entry point names: which platform is served, and by what. Imports no torch."""

from __future__ import annotations

from types import MappingProxyType

from neuropod_core.backend import Backend, Descriptor, Executor, LoadOptions
from neuropod_core.hookspecs import hookimpl
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant

__all__ = ["TorchScriptBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 0)
"""The contract that this plugin was written for."""

_OPTIONS = {
    "freeze": "whether constants are folded into the graph of a model without state (default true); "
    "nothing that changes numbers is optimised",
    "intra_op_threads": "threads within one operator, for the whole process, as torch.set_num_threads sets them",
    "inter_op_threads": "threads across operators, for the whole process; settable once, before torch runs in parallel",
}


class TorchScriptBackend(Backend):
    """Opens TorchScript archives: ``0/data/model.pt``."""

    descriptor = Descriptor(
        platform="torchscript",
        trust=Trust.GRAPH,
        framework=("torch",),
        framework_versions=">=2.4",
        install="pip install neuropod-torch",
        devices=("cpu", "cuda"),
        options=MappingProxyType(_OPTIONS),
        packagers=MappingProxyType(
            {"create_torchscript_neuropod": "neuropod_torch.packagers:create_torchscript_neuropod"}
        ),
        packs=MappingProxyType(dict.fromkeys(("*.pt", "*.pth", "*.ts"), "create_torchscript_neuropod:module_path")),
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open ``data/model.pt`` on the device asked for; see `Backend.load`."""
        from neuropod_torch.torchscript import load

        return load(variant, options)


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend for `platform`."""
    del platform  # The entry point names one only.
    return TorchScriptBackend()
