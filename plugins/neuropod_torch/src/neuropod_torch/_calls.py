"""The call path of one model as straight-line code, in TorchScript and in Python.

A problem and a signature are known at load, so nothing is looked up or decided in a call. On the side of TorchScript a
method is added that takes the inputs in the order of the problem and returns a bare tuple of its outputs: torch spends
less on those than on keyword arguments, dictionaries and named tuples, and what no output needs is not computed. On the
side of Python a function is written that converts, calls and converts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch

from neuropod_core.backend import Names, Tensors
from neuropod_core.problem import Problem
from neuropod_torch._signature import Signature
from neuropod_torch._tensors import Converter, brain_array, lent, owned, owned_result

__all__ = ["INFERENCE", "METHOD", "Call", "Form", "Recover", "method_source", "python_call"]

METHOD = "neuropod_call"
"""The name of the method that is added to a module."""

Call = Callable[[Tensors, Names], Tensors]
"""What `Executor.infer` is."""

Form = Literal["own", "own bfloat16", "copied"]
"""How a result becomes the caller's: its memory as it is, the same where NumPy does not know the type, or a copy."""

Recover = Callable[[Tensors, Names, Exception], Tensors]
"""What is asked when a call failed: another way, or the right error."""

_PYTHON = """
def infer(inputs, outputs=None):
    try:
        {arguments}
        {call}
        results = {{{returned}}}
        return results if outputs is None else {{name: results[name] for name in outputs}}
    except Exception as error:
        return recover(inputs, outputs, error)
"""

_INFERRING = """if is_inferring():
            {call}
        else:
            with inference(True):
                {call}"""

_TRACKED = """with no_grad():
            {call}"""  # Tensors made in inference mode are no use to a caller who trains or writes.

INFERENCE = getattr(torch._C, "_InferenceMode", torch.inference_mode)  # noqa: SLF001 - has a public way out
"""The class within `torch.inference_mode`, which takes a third of its time; pass True."""


def method_source(signature: Signature, problem: Problem) -> str:
    """Write the method in TorchScript."""
    names = [spec.name for spec in problem.inputs]
    types = [signature.dict_values or signature.arguments[name] for name in names]
    parameters = "".join(f", a{index}: {kind}" for index, kind in enumerate(types))
    results = ", ".join(signature.paths.values())
    returned = results if len(signature.paths) == 1 else f"({results})"
    lines = [f"def {METHOD}(self{parameters}):", *_forward_call(signature, names), f"return {returned}"]
    return "\n    ".join(lines) + "\n"


def _forward_call(signature: Signature, names: Sequence[str]) -> list[str]:
    if not signature.dict_type:
        given = ", ".join(f"{name}=a{index}" for index, name in enumerate(names))
        return [f"r = self.forward({given})"]
    if signature.dict_values in ("Tensor", "List[str]") and names:
        items = ", ".join(f"{name!r}: a{index}" for index, name in enumerate(names))
        return [f"r = self.forward({{{items}}})"]
    lines = [f"d[{name!r}] = a{index}" for index, name in enumerate(names)]
    return [f"d: {signature.dict_type} = {{}}", *lines, "r = self.forward(d)"]


def python_call(
    method: Callable[..., Any],
    inputs: Mapping[str, Converter],
    outputs: Mapping[str, Form],
    recover: Recover,
    *,
    native: bool = False,
) -> tuple[Call, dict[str, Any]]:
    """Write the function in Python, and give it with its globals: who empties those lets go of the model.

    Parameters
    ----------
    method
        Takes the inputs, returns the outputs, each in the order given here.
    inputs
        Name -> what makes of an array what `method` takes.
    outputs
        Name -> how the result becomes the caller's.
    recover
        Is asked if anything fails.
    native
        Whether results stay tensors.
    """
    names: dict[str, Any] = {"call": method, "recover": recover, "inference": INFERENCE}
    names |= {"owned": owned_result if native else owned, "no_grad": torch.no_grad}
    names |= {"tensor": torch.from_numpy, "lent": lent, "is_inferring": torch.is_inference_mode_enabled}
    names |= {"brain": brain_array, "bfloat16": torch.bfloat16}
    names |= {f"converted{index}": convert for index, convert in enumerate(inputs.values())}
    converted = ", ".join(_converted(index, convert) for index, convert in enumerate(inputs.values()))
    call = f"{', '.join(f'r{index}' for index, _ in enumerate(outputs))} = call({converted})"
    source = _PYTHON.format(
        arguments="; ".join(f"a{index} = inputs[{name!r}]" for index, name in enumerate(inputs)) or "pass",
        call=(_TRACKED if native else _INFERRING).format(call=call),
        returned=", ".join(_returned(index, *output, native=native) for index, output in enumerate(outputs.items())),
    )
    exec(compile(source, "<neuropod_torch call>", "exec"), names)  # noqa: S102 - names enter as literals, by repr
    return cast("Call", names["infer"]), names


def _converted(index: int, convert: Converter) -> str:
    if convert is lent:  # Nearly every array is contiguous and writeable: what `lent` would find out, without the call.
        return f"(tensor(a{index}) if a{index}.flags.carray else lent(a{index}))"
    return f"converted{index}(a{index})"


def _returned(index: int, name: str, form: Form, *, native: bool) -> str:
    owned, as_given = f"owned(r{index}, {name!r})", f"r{index}" if native else f"r{index}.numpy()"
    if form == "own bfloat16" and not native:
        return f"{name!r}: brain(r{index}) if r{index}.dtype is bfloat16 else {owned}"
    return f"{name!r}: {owned if form == 'copied' else as_given}"
