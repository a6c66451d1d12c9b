"""What a Keras 3 model calls its tensors, and how it is exported."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuropod_core import DType, PackagingError, Problem
from neuropod_core.errors import shown

__all__ = ["Names", "export", "exported_names", "is_model", "keys_of", "names_of", "specs_of"]

_BATCH = "batch_size"


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

    Raises
    ------
    PackagingError
        If the model does not know its tensors.
    """
    if not names.inputs or not names.outputs:
        what = f"the model {model.name!r} does not know its inputs and outputs"
        raise PackagingError(what, remedy="pass problem (or input_spec and output_spec)")
    ours = {own: name for name, own in mapping.items()}
    inputs, outputs = (
        [_spec(ours.get(name, name), tensor) for name, tensor in side.items()] for side in (names.inputs, names.outputs)
    )
    return inputs, outputs


def export(model: Any, folder: Path, problem: Problem) -> None:
    """Write the model as a SavedModel with the signature ``serving_default``."""
    signature = None if getattr(model, "inputs", None) else _input_signature(problem)
    model.export(str(folder), verbose=False, input_signature=signature)


def exported_names(names: Names, signature: Any) -> dict[str, str]:
    """Give the key that the export made of each name of the model; each key goes by itself too."""
    keys = {name: name for name in (*signature.inputs, *signature.outputs)}
    numbered = {name: f"output_{number}" for number, name in enumerate(names.outputs)}
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
    if isinstance(struct, Mapping) and len(struct) == len(outputs):
        by_tensor = {id(tensor): name for name, tensor in struct.items()}
        return [str(by_tensor[id(tensor)]) for tensor in outputs]
    names = list(getattr(model, "output_names", None) or [model.layers[-1].name][: len(outputs)])
    unique = len(set(names)) == len(outputs)
    return names if unique else [f"output_{number}" for number in range(len(outputs))]


def _spec(name: str, tensor: Any) -> dict[str, Any]:
    shape = [_BATCH if place == 0 and length is None else length for place, length in enumerate(tensor.shape)]
    return {"name": name, "dtype": str(DType.parse(tensor.dtype)), "shape": shape}


def _input_signature(problem: Problem) -> list[Any]:
    from neuropod_tf._saving import tensor_spec

    return [tensor_spec(spec, spec.name) for spec in problem.inputs]
