"""Writes packages of exported programs, as they are or compiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropod_core.errors import NeuropodError, PackagingError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from neuropod_core.packaging import PackageArguments
    from neuropod_core.problem import Problem

__all__ = ["create_torch_aoti_neuropod", "create_torch_export_neuropod"]


def create_torch_export_neuropod(
    *,
    neuropod_path: str | Path,
    model_name: str,
    module: torch.nn.Module | None = None,
    program: torch.export.ExportedProgram | None = None,
    program_path: str | Path | None = None,
    dynamic_shapes: Any = None,
    strict: bool = False,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Package an exported program.

    Parameters
    ----------
    neuropod_path
        Where the package is written; nothing may be there.
    model_name
        The model's name.
    module
        A module to export, in evaluation mode. The examples come from `test_input_data` or are made up from the
        problem; every symbol and every open dimension of the problem becomes dynamic.
    program
        Instead of `module`: what ``torch.export.export`` gave.
    program_path
        Instead of `module`: a file that ``torch.export.save`` wrote. It is unpickled here: it has to be trusted.
    dynamic_shapes
        For `module`: what ``torch.export.export`` takes by this name, where the problem's symbols do not do.
    strict
        For `module`: whether it is traced by way of its bytecode; see ``torch.export.export``.
    **arguments
        What all packagers take; see `neuropod_core.packaging`.

    Raises
    ------
    PackagingError
        If torch cannot export it, it takes fewer sizes than the problem says, it cannot be written or does not run;
        nothing is left behind.

    Examples
    --------
    >>> create_torch_export_neuropod(  # doctest: +SKIP
    ...     neuropod_path="digits.neuropod", model_name="digits", module=net,
    ...     problem=Problem.of({"image": "float32[N, 64]"}, {"scores": "float32[N, 10]"}),
    ... )
    """
    from neuropod_core.packaging import new_package

    _check_one(module=module, program=program, program_path=program_path)
    with new_package("torch_export", neuropod_path=neuropod_path, model_name=model_name, **arguments) as package:
        made = _program(_Source(module, program, program_path, dynamic_shapes, strict), package.problem, arguments)
        target = _target(package.folder)
        if program_path is not None:
            _copy(Path(program_path), target)
        else:
            if module is not None:
                made.example_inputs = None  # What was test data, or made up, is nothing for the file.
            _save(made, target)


def create_torch_aoti_neuropod(
    *,
    neuropod_path: str | Path,
    model_name: str,
    module: torch.nn.Module | None = None,
    program: torch.export.ExportedProgram | None = None,
    program_path: str | Path | None = None,
    dynamic_shapes: Any = None,
    strict: bool = False,
    package_path: str | Path | None = None,
    inductor_configs: Mapping[str, Any] | None = None,
    **arguments: Unpack[PackageArguments],
) -> None:
    """Compile a model for this host and package the result; compiling needs a C++ compiler, running does not.

    Parameters
    ----------
    neuropod_path
        Where the package is written; nothing may be there.
    model_name
        The model's name.
    module, program, program_path, dynamic_shapes, strict
        What is compiled; see `create_torch_export_neuropod`.
    package_path
        A package that ``torch._inductor.aoti_compile_and_package`` wrote here, taken as it is. Pass what it was
        compiled from, too: compiled code does not check what it is given, so the sizes that it takes have to be known.
    inductor_configs
        Settings of the compiler.
    **arguments
        What all packagers take; see `neuropod_core.packaging`.

    Raises
    ------
    PackagingError
        If torch cannot export or compile it, it takes fewer sizes than the problem says, what it writes to its buffers
        is lost by the compiler, it cannot be written or does not run; nothing is left behind.

    Examples
    --------
    >>> create_torch_aoti_neuropod(  # doctest: +SKIP
    ...     neuropod_path="digits.neuropod", model_name="digits", module=net,
    ...     problem=Problem.of({"image": "float32[N, 64]"}, {"scores": "float32[N, 10]"}),
    ... )
    """
    from neuropod_core.packaging import new_package

    _check_one(module=module, program=program, program_path=program_path)
    with new_package("torch_aoti", neuropod_path=neuropod_path, model_name=model_name, **arguments) as package:
        made = _program(_Source(module, program, program_path, dynamic_shapes, strict), package.problem, arguments)
        _check_layout(made)
        target = _target(package.folder)
        if package_path is not None:
            _copy(Path(package_path), target)
        else:
            _compile(made, target, dict(inductor_configs or {}))
        record = _record(made, package.problem)
        _check_state(made, target, record, package.problem, arguments.get("test_input_data"))
        (package.folder / "config.json").write_text(json.dumps(record, indent=4, sort_keys=True))


def _check_one(**sources: object) -> None:
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        what = f"exactly one of {', '.join(sources)} is packaged, got {' and '.join(given) or 'none'}"
        raise PackagingError(what)


@dataclass(frozen=True)
class _Source:
    """What was passed to a packager."""

    module: Any
    program: Any
    program_path: str | Path | None
    dynamic_shapes: Any
    strict: bool


def _program(source: _Source, problem: Problem, arguments: Mapping[str, Any]) -> Any:
    """Give the exported program of whatever was passed, and see that it fits the problem."""
    from neuropod_torch._custom_ops import load_custom_ops
    from neuropod_torch._exporting import check_sizes, exported

    try:
        load_custom_ops(list(map(Path, arguments.get("custom_ops") or ())))
        program = source.program
        if source.module is not None:
            data = arguments.get("test_input_data")
            program = exported(source.module, problem, data, source.dynamic_shapes, strict=source.strict)
        elif source.program_path is not None:
            program = _opened(Path(source.program_path))
        check_sizes(program, problem)
    except PackagingError:
        raise
    except NeuropodError as error:
        raise PackagingError(str(error)) from error
    return program


def _opened(path: Path) -> Any:
    from neuropod_torch._errors import reason
    from neuropod_torch.export import opened_program

    try:
        return opened_program(path)
    except Exception as error:
        what = f"program_path cannot be read: {getattr(error, 'strerror', None) or reason(error)}"
        raise PackagingError(what, at=str(path), remedy="write it by torch.export.save") from error


def _target(folder: Path) -> Path:
    target = folder / "data" / "model.pt2"
    target.parent.mkdir()
    return target


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise PackagingError(f"it cannot be read: {error.strerror}", at=str(source)) from error


def _save(program: Any, target: Path) -> None:
    import torch

    from neuropod_torch._errors import reason
    from neuropod_torch._quiet import quiet_torch

    try:
        with quiet_torch():
            torch.export.save(program, str(target))
    except Exception as error:
        raise PackagingError(f"torch cannot save the program: {reason(error)}") from error


def _compile(program: Any, target: Path, configs: dict[str, Any]) -> None:
    import torch

    from neuropod_torch._errors import reason
    from neuropod_torch._quiet import quiet_torch

    try:
        with quiet_torch():
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its documented home
                program, package_path=str(target), inductor_configs=configs
            )
    except Exception as error:
        remedy = "see that a C++ compiler is installed (g++, or the one that the environment variable CXX names)"
        raise PackagingError(f"torch cannot compile the program: {reason(error)}", remedy=remedy) from error


def _check_layout(program: Any) -> None:
    from neuropod_torch._exported import check_layout

    try:
        check_layout(program)
    except NeuropodError as error:
        raise PackagingError(str(error)) from error


def _check_state(program: Any, target: Path, record: Mapping[str, Any], problem: Problem, test_data: Any) -> None:
    """Refuse compiled code that loses what the model writes, where both can be called here."""
    if record["keeps_state"] and record["device"] == "cpu":
        from neuropod_torch._exported import interface_of
        from neuropod_torch._state_check import check_state_is_kept

        check_state_is_kept(program, target, interface_of(program, problem), problem, test_data)


def _record(program: Any, problem: Problem) -> dict[str, Any]:
    """Write down what compiled code does not tell: what it was compiled for, what it takes, what it writes."""
    from neuropod_torch._exported import devices_of, effects_of, interface_of
    from neuropod_torch._host import this_host

    effects = effects_of(program)
    return {
        "device": next(iter(sorted({device.type for device in devices_of(program)} - {"cpu"})), "cpu"),
        "host": this_host(),
        "interface": interface_of(program, problem).to_json(),
        "keeps_state": effects.keeps_state,
        "writes_inputs": effects.writes_inputs,
    }
