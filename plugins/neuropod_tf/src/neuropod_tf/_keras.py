"""What a Keras 3 model calls its tensors, and how it is exported."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neuropod_core import DType, PackagingError, Problem, TensorSpec
from neuropod_core.errors import shown
from neuropod_tf._artefact import read_saved_model
from neuropod_tf._specs import tensor_spec

__all__ = ["Names", "export", "exported_names", "is_model", "keys_of", "names_of", "specs_of"]

_BATCH = "batch_size"
_NO_INPUTS = frozenset({"training", "mask", "args", "kwargs"})


@dataclass(frozen=True)
class Names:
    """The symbolic tensors of a model by the names that its author gave them; both empty if it has none."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


def is_model(thing: object) -> bool:
    """Tell whether it is a Keras model, without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(thing, keras.Model)


def names_of(model: Any) -> Names:
    """Name the inputs as their tensors, the outputs as the keys of the model's dictionary or the layers that give them.

    Raises
    ------
    PackagingError
        If it is no Keras model.
    """
    if not is_model(model):
        raise PackagingError(
            f"expected a Keras 3 model, got {shown(model)}", remedy="pass it to create_tensorflow_neuropod"
        )
    inputs, outputs = (list(getattr(model, side, None) or []) for side in ("inputs", "outputs"))
    return Names(
        {tensor.name: tensor for tensor in inputs}, dict(zip(_output_names(model, outputs), outputs, strict=True))
    )


def specs_of(model: Any, names: Names, mapping: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the specs of inputs and outputs off the model, under the names that `mapping` gives them.

    A model that was called but does not keep its symbolic tensors, a subclassed one, is asked through a trial export.

    Raises
    ------
    PackagingError
        If the model does not know its tensors.
    """
    found = names if names.inputs and names.outputs else _exported_tensors(model)
    ours = {own: name for name, own in mapping.items()}
    free = isinstance(model, sys.modules["keras"].Sequential) and not _keeps_state(model)
    inputs, outputs = (
        [_spec(ours.get(name, name), tensor, free=free) for name, tensor in side.items()]
        for side in (found.inputs, found.outputs)
    )
    return inputs, outputs


def _exported_tensors(model: Any) -> Names:
    with TemporaryDirectory(prefix="neuropod-") as folder:
        try:
            model.export(folder, verbose=False)
        except Exception as error:  # Of a model that was never called, or whose tensors are no tensors.
            what = f"the model {model.name!r} does not know its inputs and outputs"
            remedy = "pass problem (or input_spec and output_spec)" if model.built else "call it once, or pass problem"
            raise PackagingError(what, remedy=remedy) from error
        signature = read_saved_model(Path(folder)).signature(None)
    inputs, outputs = (
        {key: _Tensor(side[key]) for key in sorted(side, key=lambda key: (len(key), key))}
        for side in (signature.inputs, signature.outputs)
    )
    arguments = [name for name in inspect.signature(model.call).parameters if name not in _NO_INPUTS]
    if len(arguments) == len(inputs):
        inputs = dict(zip(arguments, inputs.values(), strict=True))
    return Names(inputs, outputs)


class _Tensor:
    """A tensor of a signature, described as a symbolic one of Keras."""

    def __init__(self, known_by: Any) -> None:
        from tensorflow import dtypes

        self.dtype = dtypes.as_dtype(known_by.dtype).name
        self.shape = [dim.size if dim.size >= 0 else None for dim in known_by.tensor_shape.dim]


def export(model: Any, folder: Path, problem: Problem, mapping: Mapping[str, str]) -> None:
    """Write the model as a SavedModel with the signature ``serving_default``.

    Raises
    ------
    Exception
        What Keras raises, if the model can be called in none of the ways that inputs can be passed.
    """
    names = names_of(model)
    if names.inputs and _is_nested(model):
        model = sys.modules["keras"].Model(_input_struct(model), dict(names.outputs))
    first: Exception | None = None
    for signature in _input_signatures(model, problem, mapping):
        try:
            model.export(str(folder), verbose=False, input_signature=signature)
        except Exception as error:  # noqa: BLE001 - layers may raise anything; one error is raised below
            first = first or error
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return
    if first is not None:
        raise first


def _input_signatures(model: Any, problem: Problem, mapping: Mapping[str, str]) -> Iterator[Any]:
    """Give the ways in which the model may take its inputs: one for each argument, in a dictionary, or in a list."""
    keras, tensorflow = sys.modules["keras"], sys.modules["tensorflow"]
    if getattr(model, "inputs", None):
        yield None  # Keras knows, and leaves the first dimension open.
        yield [
            keras.tree.map_structure(
                lambda tensor: tensorflow.TensorSpec(tensor.shape, tensor.dtype, tensor.name), _input_struct(model)
            )
        ]
        return
    named = {name: tensor_spec(spec, name) for name, spec in _by_own_name(problem, mapping)}
    yield list(named.values())
    yield [named]
    yield [list(named.values())]
    yield None


def _by_own_name(problem: Problem, mapping: Mapping[str, str]) -> Iterator[tuple[str, TensorSpec]]:
    return ((mapping.get(spec.name, spec.name), spec) for spec in problem.inputs)


def _input_struct(model: Any) -> Any:
    return getattr(model, "_inputs_struct", model.inputs)


def _is_nested(model: Any) -> bool:
    """Tell whether the outputs are containers of containers, which no signature can be."""
    struct = getattr(model, "_outputs_struct", None)
    values = struct.values() if isinstance(struct, Mapping) else struct if isinstance(struct, list | tuple) else ()
    return any(isinstance(value, Mapping | list | tuple) for value in values)


def _keeps_state(model: Any) -> bool:
    return any(getattr(layer, "stateful", False) for layer in getattr(model, "layers", ()))


def exported_names(names: Names, signature: Any, problem: Problem) -> dict[str, str]:
    """Give the key that the export made of each name of the model; each key goes by itself too.

    Numbered outputs of a model that has no names for them are called as those of the problem, in their order.
    """
    keys = {name: name for name in (*signature.inputs, *signature.outputs)}
    called = list(names.outputs)
    if not called and len(problem.outputs) == len(signature.outputs):
        called = [spec.name for spec in problem.outputs]
    numbered = {name: f"output_{number}" for number, name in enumerate(called)}
    return {name: key for name, key in numbered.items() if key in signature.outputs} | keys


def keys_of(problem: Problem, known: Mapping[str, str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Give the exported key of each tensor of a problem.

    Raises
    ------
    PackagingError
        If the model has no such tensor, with those that it has.
    """
    wanted = {spec.name: mapping.get(spec.name, spec.name) for spec in (*problem.inputs, *problem.outputs)}
    unknown = sorted(set(mapping) - set(wanted))
    if unknown:
        what = f"node_name_mapping names {', '.join(map(shown, unknown))} (the problem has: {', '.join(wanted)})"
        raise PackagingError(what)
    missing = [own for own in wanted.values() if own not in known]
    if missing:
        what = f"the model has no tensor {', '.join(map(shown, missing))} (it has: {', '.join(known)})"
        raise PackagingError(what, remedy="say which they are by node_name_mapping")
    return {name: known[own] for name, own in wanted.items()}


def _output_names(model: Any, outputs: list[Any]) -> list[str]:
    struct = getattr(model, "_outputs_struct", None)
    if isinstance(struct, Mapping) and len(struct) == len(outputs) and not _is_nested(model):
        by_tensor = {id(tensor): name for name, tensor in struct.items()}
        return [str(by_tensor[id(tensor)]) for tensor in outputs]
    names = list(getattr(model, "output_names", None) or [model.layers[-1].name][: len(outputs)])
    taken = {tensor.name for tensor in getattr(model, "inputs", None) or []}
    unique = len(set(names)) == len(outputs) and taken.isdisjoint(names)
    return names if unique else [f"output_{number}" for number in range(len(outputs))]


def _spec(name: str, tensor: Any, *, free: bool) -> dict[str, Any]:
    shape = list(tensor.shape)
    if shape and (free or shape[0] is None):
        shape[0] = _BATCH
    return {"name": name, "dtype": str(DType.parse(tensor.dtype)), "shape": shape}
