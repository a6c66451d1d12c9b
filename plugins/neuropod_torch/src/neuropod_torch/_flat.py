"""The call path of a flat program, exported or compiled, as straight-line code, and the executor that has it.

A program takes tensors in one order and returns tensors in another; both are known at load, and so are the sizes that
it admits. Whether the memory of a result is the caller's is seen from the result itself: it is neither an input nor an
earlier result, and nothing else refers to its storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from neuropod_core.backend import Executor, Names, NativeTensors, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import InferenceError, ModelClosedError, TensorMismatchError
from neuropod_core.problem import Problem
from neuropod_torch._calls import INFERENCE
from neuropod_torch._errors import inference_error
from neuropod_torch._exported import Effects
from neuropod_torch._interface import Interface, Port
from neuropod_torch._tensors import converter, owned_array, owned_tensor, storage_uses

__all__ = ["FlatExecutor", "FlatProgram"]

_CALL = """
def infer(inputs, outputs=None):
    try:
        {arguments}
        {sizes}
        {tensors}
        {call}
        {taken}
        results = {{{returned}}}
        return results if outputs is None else {{name: results[name] for name in outputs}}
    except Exception as error:
        return recover(inputs, error)
"""

_CHECK = """{shapes}
        if not ({conditions}):
            refuse({shapes_by_place})"""

_INFERRING = """if is_inferring():
            results = {call}
        else:
            with inference(True):
                results = {call}"""

_OF_NUMPY = frozenset(one.value for one in DType if one not in (DType.STRING, DType.BFLOAT16))

_TRACKED = """with no_grad():
            results = {call}"""  # Tensors made in inference mode are no use to a caller who trains or writes.


@dataclass(frozen=True)
class FlatProgram:
    """What one executor runs.

    Parameters
    ----------
    call
        Takes the inputs, returns the results, each in the program's order.
    is_compiled
        Whether it takes the inputs as one list, and each in the memory layout that it was compiled for: contiguous.
    interface
        What they are called.
    effects
        What a call may write.
    device
        Where it runs.
    facts
        For people, beside what is said of every program.
    fresh
        Results whose memory is certain to be theirs alone, with their element types.
    is_brief
        Whether it records no gradients in any mode, and is done before inference mode would pay.
    """

    call: Callable[..., Sequence[Any]]
    is_compiled: bool
    interface: Interface
    effects: Effects
    device: torch.device
    facts: Mapping[str, object]
    fresh: Mapping[int, str] = field(default_factory=dict)
    is_brief: bool = False


class FlatExecutor(Executor):
    """One program on one device; where calls change what later calls give, they run one after the other.

    Parameters
    ----------
    program
        What runs.
    problem
        What it solves; it fits the program.
    """

    takes_native = True

    def __init__(self, program: FlatProgram, problem: Problem) -> None:
        self._interface = program.interface
        self.stateful = program.effects.keeps_state
        self.thread_safe = not self.stateful
        self._description = {
            "framework": f"torch {torch.__version__}",
            "device": str(program.device),
            "inputs_copied": program.effects.writes_inputs,
            **program.facts,
        }
        self._calls = [self._written(program, problem, native=native) for native in (False, True)]
        vars(self)["infer"], vars(self)["infer_native"] = (names["infer"] for names in self._calls)

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run the model once; see `Executor.infer`. Every output is computed, those not asked for are dropped."""
        results: Tensors = self._calls[0]["infer"](inputs, outputs)
        return results

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Run the model once, and leave the results as tensors of torch; see `Executor.infer_native`."""
        results: NativeTensors = self._calls[1]["infer"](inputs, outputs)
        return results

    def close(self) -> None:
        """Let go of the program, and of its memory on the device."""
        for names in self._calls:
            names["call"] = _closed
        vars(self).pop("infer", None)
        vars(self).pop("infer_native", None)

    @property
    def description(self) -> Mapping[str, object]:
        """Versions, device, threads of torch, and what is copied."""
        return self._description | {"intra_op_threads": torch.get_num_threads()}

    def _written(self, program: FlatProgram, problem: Problem, *, native: bool) -> dict[str, Any]:
        interface = program.interface

        def refuse(shapes: Mapping[int, Sequence[int]]) -> None:
            _refuse(interface, shapes)

        def recover(inputs: NativeTensors, error: Exception) -> Any:
            raise _error(interface, inputs, error) from error

        names: dict[str, Any] = {
            "call": program.call,
            "recover": recover,
            "refuse": refuse,
            "storage_uses": storage_uses,
            "inference": INFERENCE,
            "is_inferring": torch.is_inference_mode_enabled,
            "no_grad": torch.no_grad,
            "tensor": torch.from_numpy,
            "ndarray": np.ndarray,
            "int16": np.int16,
            "bfloat16": torch.bfloat16,
            "convert": converter(program.device, copies=program.effects.writes_inputs, contiguous=program.is_compiled),
            "owned": owned_tensor if native else owned_array,
            **_functions(interface),
        }
        source = _source(program, [spec.name for spec in problem.outputs], native=native)
        exec(compile(source, "<neuropod_torch program>", "exec"), names)  # noqa: S102 - all that is foreign enters by repr
        return names


# -- errors -----------------------------------------------------------------------------------------------------------


def _closed(*_: object) -> Any:
    raise ModelClosedError("the model was closed", remedy="load it again")


def _error(interface: Interface, inputs: NativeTensors, error: Exception) -> Exception:
    """Say of a call that failed what was wrong with it."""
    if isinstance(error, KeyError):
        for _, port in interface.ports:
            if port.name not in inputs:
                what = "the model needs this input, and the call leaves it out"
                return InferenceError(what, f"inputs.{port.name}", "pass it: exported programs have no defaults")
    return inference_error(error)


def _refuse(interface: Interface, shapes: Mapping[int, Sequence[int]]) -> None:
    """Raise for the first condition that does not hold."""
    names: dict[str, Any] = {f"s{place}": shape for place, shape in shapes.items()} | _functions(interface)
    for condition in interface.conditions:
        if not eval(condition, names):  # noqa: S307 - let in by `is_condition`
            raise _size_error(interface, condition, shapes)


def _size_error(interface: Interface, condition: str, shapes: Mapping[int, Sequence[int]]) -> TensorMismatchError:
    concerned = [(place, port) for place, port in interface.ports if f"s{place}[" in condition]
    got = (f"{port.name}[{', '.join(map(str, shapes[place]))}]" for place, port in concerned)
    return TensorMismatchError(
        f"inputs.{concerned[-1][1].name}",
        f"sizes that the program was exported for, {interface.told(condition)}",
        " and ".join(got),
        "pass sizes that fit, or export it with other dynamic_shapes",
    )


def _functions(interface: Interface) -> dict[str, Any]:
    """Give the functions that conditions on sizes may use, as torch computes them."""
    if not any("(" in condition for condition in interface.conditions):
        return {}
    from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

    return dict(SYMPY_INTERP)


# -- source -----------------------------------------------------------------------------------------------------------


def _source(program: FlatProgram, outputs: Sequence[str], *, native: bool) -> str:
    interface, on_cpu = program.interface, program.device.type == "cpu"
    is_lent = on_cpu and not program.effects.writes_inputs
    ports = list(interface.ports)
    taken = [f"r{index} = results[{interface.outputs[name]}]" for index, name in enumerate(outputs)]
    returned = [f"{name!r}: {_result(index, name, program, native=native)}" for index, name in enumerate(outputs)]
    return _CALL.format(
        arguments="; ".join(f"a{place} = inputs[{port.name!r}]" for place, port in ports) or "pass",
        sizes=_sizes(interface),
        tensors="; ".join(f"t{place} = {_converted(place, port, is_lent=is_lent)}" for place, port in ports) or "pass",
        call=_call(program, native=native),
        taken="; ".join(taken) or "pass",
        returned=", ".join(returned),
    )


def _sizes(interface: Interface) -> str:
    places = [place for place, _ in interface.ports]
    if not interface.conditions:
        return "pass"
    return _CHECK.format(
        shapes="; ".join(f"s{place} = a{place}.shape" for place in places),
        conditions=" and ".join(f"({condition})" for condition in interface.conditions),
        shapes_by_place="{" + ", ".join(f"{place}: s{place}" for place in places) + "}",
    )


def _converted(place: int, port: Port, *, is_lent: bool) -> str:
    if not is_lent:
        return f"convert(a{place})"
    quick = f"tensor(a{place})" if port.dtype != "bfloat16" else f"tensor(a{place}.view(int16)).view(bfloat16)"
    return f"{quick} if type(a{place}) is ndarray and a{place}.flags.carray else convert(a{place})"


def _call(program: FlatProgram, *, native: bool) -> str:
    values = ", ".join(
        f"t{place}" if isinstance(one, Port) else repr(one) for place, one in enumerate(program.interface.inputs)
    )
    if program.is_compiled:
        return f"results = call([{values}])"
    if program.is_brief:
        return f"results = call({values})"
    return (_TRACKED if native else _INFERRING).format(call=f"call({values})")


def _result(index: int, name: str, program: FlatProgram, *, native: bool) -> str:
    """Give the result as it is where that is known or quickly seen to be right; `owned` looks again, and copies."""
    place, on_cpu = program.interface.outputs[name], program.device.type == "cpu"
    if place in program.fresh and (native or (on_cpu and program.fresh[place] in _OF_NUMPY)):
        return f"r{index}" if native else f"r{index}.numpy()"
    others = [*(f"t{place}" for place, _ in program.interface.ports), *(f"r{before}" for before in range(index))]
    as_given = f"r{index}" if native else f"r{index}.numpy()"
    full = f"owned(r{index}, ({''.join(f'{other}, ' for other in others)}))"
    if not on_cpu or storage_uses is None:
        return full
    apart = "".join(f" and r{index} is not {other}" for other in others)
    alone = f"r{index}._use_count() == 1 and storage_uses(r{index}.untyped_storage()._cdata) == 2"
    is_plain = "" if native else f"r{index}.dtype is not bfloat16 and "
    return f"({as_given} if {is_plain}{alone} and r{index}.is_contiguous(){apart} else {full})"
