"""Writes packages of TorchScript modules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropod_core.errors import PackagingError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from neuropod_core.packaging import PackageArguments

__all__ = ["create_torchscript_neuropod"]


def create_torchscript_neuropod(
    *,
    neuropod_path: str | Path,
    model_name: str,
    module: torch.jit.ScriptModule | torch.nn.Module | None = None,
    module_path: str | Path | None = None,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Package a TorchScript module.

    Parameters
    ----------
    neuropod_path
        Where the package is written; nothing may be there.
    model_name
        The model's name.
    module
        The module, scripted or traced; an ``nn.Module`` is scripted here.
    module_path
        Instead of `module`: a file that ``torch.jit.save`` wrote.
    **arguments
        What all packagers take; see `neuropod_core.packaging`.

    Raises
    ------
    PackagingError
        If it cannot be written or does not run; nothing is left behind.

    Examples
    --------
    >>> create_torchscript_neuropod(  # doctest: +SKIP
    ...     neuropod_path="digits.neuropod", model_name="digits", module=torch.jit.script(net.eval()),
    ...     problem=Problem.of({"image": "float32[N, 64]"}, {"scores": "float32[N, 10]"}),
    ... )
    """
    from neuropod_core.packaging import new_package

    if (module is None) == (module_path is None):
        given = "both" if module is not None else "neither"
        raise PackagingError(f"exactly one of module and module_path is packaged, got {given}")
    with new_package("torchscript", neuropod_path=neuropod_path, model_name=model_name, **arguments) as package:
        target = package.folder / "data" / "model.pt"
        target.parent.mkdir()
        if module_path is not None:
            _copy(Path(module_path), target)
        else:
            _save(module, target)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise PackagingError(f"module_path cannot be read: {error.strerror}", at=str(source)) from error


def _save(module: Any, target: Path) -> None:
    import torch

    from neuropod_torch._errors import reason
    from neuropod_torch._quiet import quiet_jit

    if not isinstance(module, torch.nn.Module):
        raise PackagingError(f"module is a torch.jit.ScriptModule, not {type(module).__name__}")
    try:
        with quiet_jit():
            script = module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module)
            torch.jit.save(script, str(target))
    except Exception as error:
        remedy = "pass torch.jit.trace(module, examples), or change what TorchScript cannot say"
        raise PackagingError(f"torch cannot script {type(module).__name__}: {reason(error)}", remedy=remedy) from error
