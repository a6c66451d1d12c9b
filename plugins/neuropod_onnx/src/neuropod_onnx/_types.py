"""Types of ONNX that no tensor of a problem can have, in words and with what to do about them."""

from __future__ import annotations

from typing import NamedTuple

from neuropod_core.dtypes import DType

__all__ = ["ELEMENT_TYPES", "Refusal", "element_name", "refusal"]

ELEMENT_TYPES = {
    1: DType.FLOAT32,
    2: DType.UINT8,
    3: DType.INT8,
    4: DType.UINT16,
    5: DType.INT16,
    6: DType.INT32,
    7: DType.INT64,
    8: DType.STRING,
    9: DType.BOOL,
    10: DType.FLOAT16,
    11: DType.FLOAT64,
    12: DType.UINT32,
    13: DType.UINT64,
    16: DType.BFLOAT16,
}
"""Element types by their number in onnx.proto."""

_OTHER_ELEMENTS = {
    14: "complex64",
    15: "complex128",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
    27: "float6e2m3",
    28: "float6e3m2",
}
_RUNTIME_NAMES = {DType.FLOAT32: "float", DType.FLOAT64: "double"}
_REMEDIES = {
    "seq(map": "let the model end at the tensors: skl2onnx takes options={'zipmap': False}",
    "seq": "let the model take or give one tensor: ConcatFromSequence and SplitToSequence stay inside",
    "map": "let the model take or give keys and values as two tensors",
    "optional(seq": "let the model take or give one tensor: ConcatFromSequence and SplitToSequence stay inside",
    "sparse_tensor": "let the model take or give a dense tensor",
    "tensor(complex": "let the model take or give real and imaginary parts: float32 with a last dimension of 2",
    "tensor(float": "let the model take or give float16 or float32, with a Cast inside",
}
_NARROW = "let the model take or give int8 or uint8, with a Cast inside"


class Refusal(NamedTuple):
    """Why no tensor of a problem can have a type, and what to do."""

    reason: str
    remedy: str


def element_name(number: int) -> str:
    """Give ONNX Runtime's name of an element type: ``float``, ``int4``."""
    dtype = ELEMENT_TYPES.get(number)
    return _RUNTIME_NAMES.get(dtype, dtype.value) if dtype else _OTHER_ELEMENTS.get(number, f"element type {number}")


def refusal(type_name: str) -> Refusal:
    """Say why a problem has no such type; `type_name` as ONNX Runtime writes it: ``seq(map(int64,tensor(float)))``."""
    remedy = next((text for start, text in _REMEDIES.items() if type_name.startswith(start)), _NARROW)
    return Refusal(f"is of type {type_name}, which no tensor of a problem can be", remedy)
