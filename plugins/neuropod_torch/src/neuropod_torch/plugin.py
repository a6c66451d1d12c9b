"""The plugin object that the entry point names: which platforms are served, and by what. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from neuropod_core.backend import Backend, Descriptor, Executor, LoadOptions
from neuropod_core.dtypes import DType
from neuropod_core.hookspecs import hookimpl
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant

__all__ = ["TorchAotiBackend", "TorchExportBackend", "TorchScriptBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 1)
"""The contract that this plugin was written for."""

_THREADS = {
    "intra_op_threads": "threads within one operator, for the whole process, as torch.set_num_threads sets them",
    "inter_op_threads": "threads across operators, for the whole process; settable once, before torch runs in parallel",
}
_OPTIONS = {
    "freeze": "whether constants are folded into the graph of a model without state (default true); "
    "nothing that changes numbers is optimised",
    **_THREADS,
}


_NUMBERS = frozenset(DType) - {DType.STRING}
_PACKAGERS = "neuropod_torch.export_packagers"


class _TorchBackend(Backend):
    """What the backends share: a worker runs with the threads of its parent."""

    def thread_settings(self) -> Mapping[str, Any]:
        """Give the numbers of threads that torch has in this process, if it is imported."""
        torch: Any = sys.modules.get("torch")
        if not hasattr(torch, "set_num_interop_threads"):  # Not imported, or not yet.
            return {}
        return {"intra_op_threads": torch.get_num_threads(), "inter_op_threads": torch.get_num_interop_threads()}

    def apply_thread_settings(self, settings: Mapping[str, Any]) -> None:
        """Set the same numbers, before torch starts any thread."""
        from neuropod_torch._devices import take_over_threads

        take_over_threads(settings)


class TorchScriptBackend(_TorchBackend):
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


class TorchExportBackend(_TorchBackend):
    """Opens exported programs: ``0/data/model.pt2``."""

    descriptor = Descriptor(
        platform="torch_export",
        trust=Trust.CODE,
        framework=("torch",),
        framework_versions=">=2.4",
        install="pip install neuropod-torch",
        dtypes=_NUMBERS,
        devices=("cpu", "cuda"),
        options=MappingProxyType(_THREADS),
        packagers=MappingProxyType({"create_torch_export_neuropod": f"{_PACKAGERS}:create_torch_export_neuropod"}),
        packs=MappingProxyType({"*.pt2": "create_torch_export_neuropod:program_path"}),
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open ``data/model.pt2`` and move it to the device asked for; see `Backend.load`."""
        from neuropod_torch.export import load

        return load(variant, options)


class TorchAotiBackend(_TorchBackend):
    """Opens packages that AOTInductor compiled: ``0/data/model.pt2``."""

    descriptor = Descriptor(
        platform="torch_aoti",
        trust=Trust.CODE,
        framework=("torch",),
        framework_versions=">=2.6",
        install="pip install neuropod-torch",
        dtypes=_NUMBERS,
        devices=("cpu", "cuda"),
        options=MappingProxyType(_THREADS),
        packagers=MappingProxyType({"create_torch_aoti_neuropod": f"{_PACKAGERS}:create_torch_aoti_neuropod"}),
        packs=MappingProxyType({"*.pt2": "create_torch_aoti_neuropod:program_path"}),
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open ``data/model.pt2`` where it was compiled for this host and the device asked for; see `Backend.load`."""
        from neuropod_torch.aoti import load

        return load(variant, options)


_BACKENDS: Mapping[str, type[Backend]] = {
    kind.descriptor.platform: kind for kind in (TorchScriptBackend, TorchExportBackend, TorchAotiBackend)
}


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend for `platform`."""
    return _BACKENDS[platform]()
