"""Opens ONNX models and runs them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
from openvino.frontend import FrontEndManager

import neuropod_core as core

__all__ = ["OpenVINOExecutor", "compile_model"]

_INT32 = np.iinfo(np.int32)


def compile_model(variant: core.Variant, options: core.LoadOptions) -> Any:
    """Read the model of `variant`, as ONNX and nothing else, and compile it."""
    path = variant.artefact("data/model.onnx")
    if variant.custom_ops:
        raise core.ModelLoadError("OpenVINO runs no operators of others", remedy="pass backend='neuropod-onnx'")
    if b"_ORT_MEM_ADDR_" in path.read_bytes():
        # A location that ONNX Runtime hands to OpenVINO within one process, and a way into its memory for strangers.
        raise core.PackageFormatError("a tensor lies at an address of this process", at=path.name)
    precision = options.text("precision", "f32")
    if precision not in {"f32", "bf16", "f16"}:
        raise core.OptionError(f"precision is 'f32', 'bf16' or 'f16', not {precision!r}")
    properties = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": options.integer("threads", 0)}
    try:
        frontend = FrontEndManager().load_by_framework("onnx")
        model = frontend.convert(frontend.load(str(path)))
        return openvino.Core().compile_model(model, "CPU", properties)
    except Exception as error:  # Each of OpenVINO's parts has its own tree of errors.
        raise core.ModelLoadError(f"OpenVINO refuses the model: {_reason(error)}", at=path.name) from error


class OpenVINOExecutor(core.Executor):
    """A compiled model, and the requests that no call uses now."""

    def __init__(self, compiled: Any, variant: core.Variant) -> None:
        nodes = variant.config.get("node_name_mapping", {})
        self._compiled = compiled
        self._idle: list[Any] = []
        self._inputs = _ports(variant.problem.inputs, compiled.inputs, nodes)
        self._outputs = _ports(variant.problem.outputs, compiled.outputs, nodes)
        if missing := set(compiled.inputs) - set(self._inputs.values()):
            names = ", ".join(sorted(port.any_name for port in missing))
            raise core.PackageFormatError(f"the model takes {names}, which the problem does not name")

    def infer(self, inputs: core.Tensors, outputs: core.Names = None) -> core.Tensors:
        """Run the model, in a request that no other call uses."""
        if missing := self._inputs.keys() - inputs.keys():  # A request would take what an earlier call gave it.
            raise core.InferenceError(f"OpenVINO needs every input, and {', '.join(sorted(missing))} is not given")
        tensors = {port: openvino.Tensor(_narrow(name, inputs[name])) for name, port in self._inputs.items()}
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            request.infer(tensors)
            asked = self._outputs if outputs is None else outputs
            return {name: np.array(request.get_tensor(self._outputs[name]).data) for name in asked}
        except RuntimeError as error:
            raise core.InferenceError(f"OpenVINO failed: {_reason(error)}") from error
        finally:
            self._idle.append(request)

    def close(self) -> None:
        """Free the model."""
        self._idle.clear()
        del self._compiled

    @property
    def description(self) -> Mapping[str, object]:
        """Version, threads and precision, as OpenVINO chose them."""
        facts = {"threads": "INFERENCE_NUM_THREADS", "precision": "INFERENCE_PRECISION_HINT"}
        chosen = {name: str(self._compiled.get_property(key)) for name, key in facts.items()}
        return {"framework": "openvino", "framework_version": openvino.__version__, **chosen}


def _ports(specs: tuple[core.TensorSpec, ...], ports: list[Any], nodes: Mapping[str, str]) -> dict[str, Any]:
    """Find each tensor of the problem in the model."""
    there = {name: port for port in ports for name in port.names}
    found = {}
    for spec in specs:
        port = found[spec.name] = there.get(nodes.get(spec.name, spec.name))
        if port is None or port.element_type.to_dtype() != spec.dtype.numpy:
            has = "no such tensor" if port is None else f"{port.element_type.to_dtype()}"
            raise core.PackageFormatError(f"the problem has {spec}, the model {has}; its tensors: {', '.join(there)}")
    return found


def _narrow(name: str, array: core.Array) -> core.Array:
    """Refuse what OpenVINO would cut without a word: on a CPU, it keeps int64 in 32 bits."""
    if array.dtype == np.int64 and array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise core.InferenceError("OpenVINO keeps int64 in 32 bits, and a value needs more", at=f"inputs.{name}")
    return array


def _reason(error: Exception) -> str:
    """Give the last line of a message, whose first lines name places in OpenVINO's source."""
    return ([line for line in str(error).splitlines() if line.strip()] or [""])[-1].strip()
