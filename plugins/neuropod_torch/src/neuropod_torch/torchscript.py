"""The executor for TorchScript. Imports torch: `neuropod_torch.plugin` imports this module in `Backend.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuropod_core.backend import Array, Executor, LoadOptions, Names, NativeTensors, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import ModelClosedError
from neuropod_core.problem import Problem, TensorSpec
from neuropod_core.variants import Variant
from neuropod_torch._calls import Form, python_call
from neuropod_torch._custom_ops import load_custom_ops
from neuropod_torch._devices import device_for, set_threads
from neuropod_torch._errors import inference_error, load_error
from neuropod_torch._general import GeneralCall
from neuropod_torch._program import Program, prepared
from neuropod_torch._quiet import quiet_jit
from neuropod_torch._records import check_records
from neuropod_torch._rewrap import rewrapped
from neuropod_torch._tensors import Converter, converter, copied, lent, texts

__all__ = ["TorchScriptExecutor", "load"]


def load(variant: Variant, options: LoadOptions) -> TorchScriptExecutor:
    """Open ``data/model.pt`` of a variant; see `Backend.load`."""
    path = variant.artefact("data/model.pt")
    device = device_for(options.device)
    freeze = options.flag("freeze", default=True)
    set_threads(options)
    load_custom_ops(variant.custom_ops)
    try:
        module = _opened(path, device)
        program = prepared(module.eval(), variant.problem, freeze=freeze)
    except Exception as error:
        raise load_error(error, f"{variant.folder.name}/data/model.pt") from error
    return TorchScriptExecutor(program, variant.problem, device, variant.input_devices)


def _opened(path: Path, device: torch.device) -> Any:
    """Open an archive; one that torch before 1.4 wrote is put into today's form first."""
    check_records(path)
    with quiet_jit():
        try:
            return torch.jit.load(path, map_location=device)
        except RuntimeError as error:
            if "Legacy model format" not in str(error):
                raise
        return torch.jit.load(rewrapped(path), map_location=device)


class TorchScriptExecutor(Executor):
    """One module on one device; where calls change what later calls give, they run one after the other.

    Parameters
    ----------
    program
        The module.
    problem
        What it solves.
    device
        Where it runs.
    input_devices
        Which inputs the package wants on the CPU all the same: ``{"x": "CPU"}``.
    """

    def __init__(
        self, program: Program, problem: Problem, device: torch.device, input_devices: Mapping[str, str]
    ) -> None:
        converters = {spec.name: _converter(spec, program, device, input_devices) for spec in problem.inputs}
        any_tensor = {spec.name: _converter_of_any(spec, program, device, input_devices) for spec in problem.inputs}
        self._general: GeneralCall | None = GeneralCall(program, problem, any_tensor)
        self._description = _description(program, problem, device)
        self.stateful = program.facts.keeps_state
        self.thread_safe = not self.stateful
        self._names: list[dict[str, Any]] = []
        if program.method is not None:
            arrays, tensors = _outputs(problem, program, device), _native_outputs(problem, program)
            call, names = python_call(program.method, converters, arrays, self._recovered)
            native, more = python_call(program.method, any_tensor, tensors, self._recovered_native, native=True)
            self._names = [names, more]
            vars(self).update(infer=call, infer_native=native)  # Spares each call a call.

    takes_native = True

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model once; see `Executor.infer`. Every output is computed, those not asked for are dropped."""
        try:
            return _asked_for(self._opened(inputs), outputs)
        except Exception as error:
            raise inference_error(error) from error

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Run the model once, and leave the results as tensors of torch; see `Executor.infer_native`."""
        try:
            return _asked_for(self._opened.native(inputs), outputs)
        except Exception as error:
            raise inference_error(error) from error

    def close(self) -> None:
        """Let go of the module, and of its memory on the device."""
        self._general = None
        for names in self._names:
            names["call"] = _closed
        vars(self).pop("infer", None)
        vars(self).pop("infer_native", None)

    @property
    def description(self) -> Mapping[str, object]:
        """Versions, device, threads of torch, and what is copied."""
        return self._description | {"intra_op_threads": torch.get_num_threads()}

    @property
    def _opened(self) -> GeneralCall:
        return self._general or _closed()

    def _recovered(self, inputs: Tensors, outputs: Names, error: Exception) -> Tensors:
        """Repeat a call that left inputs out, or had what is no plain array or tensor; translate every other error."""
        if self._is_to_be_repeated(inputs, error):
            return TorchScriptExecutor.infer(self, inputs, outputs)
        raise inference_error(error) from error

    def _recovered_native(self, inputs: NativeTensors, outputs: Names, error: Exception) -> NativeTensors:
        if isinstance(error, KeyError):
            return TorchScriptExecutor.infer_native(self, inputs, outputs)
        raise inference_error(error) from error

    def _is_to_be_repeated(self, inputs: NativeTensors, error: Exception) -> bool:
        """Tell whether a call did not reach the model, or may reach it twice."""
        if isinstance(error, AttributeError):  # A tensor of a framework is taken for an array before anything runs.
            return not all(isinstance(value, np.ndarray) for value in inputs.values())
        return isinstance(error, KeyError) or (not self.stateful and _is_about_numpy(error))


def _closed(*_: object) -> Any:
    raise ModelClosedError("the model was closed", remedy="load it again")


def _asked_for(results: dict[str, Any], outputs: Names) -> dict[str, Any]:
    return results if outputs is None else {name: results[name] for name in outputs if name in results}


def _converter(spec: TensorSpec, program: Program, device: torch.device, input_devices: Mapping[str, str]) -> Converter:
    if spec.dtype is DType.STRING:
        return texts
    if device.type == "cpu" or input_devices.get(spec.name) == "CPU":
        return copied if program.facts.writes_inputs else lent

    def sent(array: Array) -> torch.Tensor:
        return lent(array).to(device)

    return sent


def _converter_of_any(
    spec: TensorSpec, program: Program, device: torch.device, input_devices: Mapping[str, str]
) -> Converter:
    """Give what takes arrays and tensors of any framework, if not as quickly as `_converter`."""
    if spec.dtype is DType.STRING:
        return texts
    target = torch.device("cpu") if input_devices.get(spec.name) == "CPU" else device
    return converter(target, copies=program.facts.writes_inputs)


def _native_outputs(problem: Problem, program: Program) -> dict[str, Form]:
    """Name each output, with how the tensor becomes the caller's."""
    return {
        spec.name: "copied" if shared or spec.dtype is DType.STRING else "own"
        for spec, shared in zip(problem.outputs, program.facts.shared, strict=True)
    }


def _outputs(problem: Problem, program: Program, device: torch.device) -> dict[str, Form]:
    """Name each output, with how the memory of the result becomes the caller's."""
    own: dict[DType, Form] = {DType.STRING: "copied", DType.BFLOAT16: "own bfloat16"}
    return {
        spec.name: "copied" if shared or device.type != "cpu" else own.get(spec.dtype, "own")
        for spec, shared in zip(problem.outputs, program.facts.shared, strict=True)
    }


def _is_about_numpy(error: Exception) -> bool:
    return isinstance(error, TypeError | ValueError) or "numpy()" in str(error)


def _description(program: Program, problem: Problem, device: torch.device) -> dict[str, object]:
    copied_outputs = [spec.name for spec, shared in zip(problem.outputs, program.facts.shared, strict=False) if shared]
    return {
        "framework": f"torch {torch.__version__}",
        "device": str(device),
        "frozen": program.frozen,
        "inputs_copied": program.facts.writes_inputs,
        "outputs_copied": copied_outputs if program.method is not None else [spec.name for spec in problem.outputs],
    }
