"""Writes `infer` for one signature, as straight-line code.

The source holds counts and nothing of a package: names, types and methods are bound as globals of the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neuropod_core.backend import Tensors
from neuropod_onnx._signature import Signature

__all__ = ["UNFIT", "Infer", "compile_infer", "compile_native"]

UNFIT: tuple[Any, ...] = ()
"""Stands for the lanes of shapes that are better off without."""

Infer = Callable[..., Tensors]

_SOURCE = """
def infer(inputs, outputs=None):
    if outputs is not None:
        return slow(inputs, outputs)
    try:
        {take}
    except KeyError:
        return slow(inputs)
    lanes = lanes_for({shapes})
    if not lanes:
        if lanes is not UNFIT:
            return slow(inputs)
        try:
            {results}, = run(nodes, {feed}, options)
        except Exception as error:
            return failed(inputs, error)
        return {direct}
    if {other_types}:
        return slow(inputs)
    try:
        lane = lanes.pop()
    except IndexError:
        return slow(inputs)
    {parts}, = lane
    try:
        {fill}
        bound_run()
    except Exception:
        return again(inputs, lanes, lane)
    results = {copies}
    lanes.append(lane)
    return results
"""


_NATIVE_SOURCE = """
def infer_native(inputs, outputs=None):
    if outputs is not None:
        return slow(inputs, outputs)
    try:
        {take}
    except KeyError:
        return slow(inputs)
    if {others}:
        return slow(inputs)
    try:
        values = run({feed}, nodes, options)
    except Exception as error:
        raise failed(error) from error
    return {results}
"""


def compile_infer(signature: Signature, names: dict[str, Any]) -> Infer:
    """Give a function that takes a lane where there is one, calls ``run`` for `UNFIT` shapes, else ``slow``.

    Parameters
    ----------
    signature
        The tensors; at least one output.
    names
        The function's globals: ``slow(inputs, outputs)``, ``lanes_for(shapes)``, ``again(inputs, lanes, lane)``,
        ``run(nodes, feed, options)``, ``options`` and ``failed(inputs, error)``; what it needs of `signature` is added.
        Changing them changes the function.
    """
    inputs, outputs = list(enumerate(signature.inputs)), list(enumerate(signature.outputs))
    names |= {"UNFIT": UNFIT, "nodes": [port.node for port in signature.outputs]}
    names |= {f"name{i}": port.name for i, port in inputs} | {f"node{i}": port.node for i, port in inputs}
    names |= {f"type{i}": port.dtype.numpy for i, port in inputs} | {f"result{i}": port.name for i, port in outputs}
    exec(_source(signature), names)  # noqa: S102 - see above
    infer: Infer = names["infer"]
    return infer


def compile_native(signature: Signature, names: dict[str, Any]) -> Infer:
    """Give a function that makes a call by values where all inputs are arrays without gaps, else calls ``slow``.

    Parameters
    ----------
    signature
        The tensors; at least one output. None of them is text or bfloat16, no output is stored or optional.
    names
        The function's globals: ``slow(inputs, outputs)``, ``value(array, place)`` and ``place``,
        ``result(value, type)``, ``run(values, nodes, options)``, ``options`` and ``failed(error)``; what it needs of
        `signature` is added.
    """
    inputs, outputs = list(enumerate(signature.inputs)), list(enumerate(signature.outputs))
    names |= {"ndarray": np.ndarray, "nodes": [port.node for port in signature.outputs]}
    names |= {f"name{i}": port.name for i, port in inputs} | {f"node{i}": port.node for i, port in inputs}
    names |= {f"type{i}": port.dtype.numpy for i, port in outputs} | {f"result{i}": port.name for i, port in outputs}
    source = _NATIVE_SOURCE.format(
        take="; ".join(f"a{i} = inputs[name{i}]" for i, _ in inputs) or "pass",
        others=" or ".join(f"type(a{i}) is not ndarray or not a{i}.flags.c_contiguous" for i, _ in inputs) or "False",
        feed=f"{{{', '.join(f'node{i}: value(a{i}, place)' for i, _ in inputs)}}}",
        results=f"{{{', '.join(f'result{i}: result(values[{i}], type{i})' for i, _ in outputs)}}}",
    )
    exec(source, names)  # noqa: S102 - the source holds counts alone
    infer: Infer = names["infer_native"]
    return infer


def _source(signature: Signature) -> str:
    ins, outs = range(len(signature.inputs)), range(len(signature.outputs))
    owned = ["" if not port.is_stored else ".copy()" for port in signature.outputs]
    return _SOURCE.format(
        take="; ".join(f"a{i} = inputs[name{i}]" for i in ins) or "pass",
        shapes=", ".join(f"a{i}.shape" for i in ins) if len(ins) == 1 else f"({''.join(f'a{i}.shape, ' for i in ins)})",
        results=", ".join(f"r{i}" for i in outs),
        feed=f"{{{', '.join(f'node{i}: a{i}' for i in ins)}}}",
        direct=f"{{{', '.join(f'result{i}: r{i}{owned[i]}' for i in outs)}}}",
        other_types=" or ".join(f"a{i}.dtype is not type{i}" for i in ins) or "False",
        parts=", ".join(["bound_run", *[f"b{i}" for i in ins], *[f"copy{i}" for i in outs]]),
        fill="; ".join(f"b{i}[...] = a{i}" for i in ins) or "pass",  # Four times as fast as `numpy.copyto`.
        copies=f"{{{', '.join(f'result{i}: copy{i}()' for i in outs)}}}",
    )
