"""What a SavedModel offers under one name: dense tensors, with sparse, ragged and other composite ones taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Signature"]

_INT64 = 9  # DT_INT64 of TensorFlow's types.proto.


@dataclass(frozen=True)
class Signature:
    """Keys of a signature -> ``TensorInfo`` of one dense tensor each.

    A sparse tensor ``s`` is ``s.indices``, ``s.values`` and ``s.dense_shape``, a ragged one ``r.flat_values`` and
    ``r.row_splits`` (``r.row_splits_0`` and so on where there are several), anything else ``c.0``, ``c.1``, ...
    """

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    @classmethod
    def of(cls, definition: Any) -> Signature:
        """Read a ``SignatureDef``."""
        return cls(*(dict(_dense(getattr(definition, side))) for side in ("inputs", "outputs")))


def _dense(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, known_by in tensors.items():
        match known_by.WhichOneof("encoding"):
            case "coo_sparse":
                yield from ((f"{key}.{part}", tensor) for part, tensor in _of_sparse(known_by))
            case "composite_tensor":
                parts = known_by.composite_tensor.components
                yield from ((f"{key}.{part}", tensor) for part, tensor in zip(_parts(known_by), parts, strict=True))
            case _:
                yield key, known_by


def _of_sparse(known_by: Any) -> Iterator[tuple[str, Any]]:
    shape, sparse = known_by.tensor_shape, known_by.coo_sparse
    rank = -1 if shape.unknown_rank else len(shape.dim)
    yield "indices", _tensor_info(sparse.indices_tensor_name, _INT64, [-1, rank])
    yield "values", _tensor_info(sparse.values_tensor_name, known_by.dtype, [-1])
    yield "dense_shape", _tensor_info(sparse.dense_shape_tensor_name, _INT64, [rank])


def _tensor_info(name: str, dtype: int, lengths: list[int]) -> Any:
    from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

    made = TensorInfo(name=name, dtype=dtype)
    for length in lengths:
        made.tensor_shape.dim.add(size=length)
    return made


def _parts(known_by: Any) -> list[str]:
    composite = known_by.composite_tensor
    count = len(composite.components)
    if composite.type_spec.type_spec_class_name == "RaggedTensorSpec" and count > 1:
        splits = ["row_splits"] if count == 2 else [f"row_splits_{level}" for level in range(count - 1)]  # noqa: PLR2004
        return ["flat_values", *splits]
    return [str(number) for number in range(count)]
