"""What is known about the operators of TorchScript beyond their schemas, for the analysis in `_aliasing`.

A schema says which arguments an operator writes. It does not say reliably that a result is new: ``aten::dropout``
returns its input in evaluation mode, ``aten::type_as`` where there is nothing to convert, ``aten::einsum`` may return a
view. So a result may alias every operand unless the operator is listed here.
"""

from __future__ import annotations

__all__ = ["FRESH", "HONEST", "ITEM_LISTS", "LIKE_FIRST", "STRUCTURAL", "WRITES_UNSAID"]


HONEST = ("aten::", "quantized::", "prepacked::", "torchvision::", "torchaudio::")
"""Libraries of operators whose schemas say what they write; of others, a package's own among them, nothing is known."""


def _named(library: str, names: str) -> frozenset[str]:
    return frozenset(f"{library}::{name}" for name in names.split())


FRESH = _named(
    "aten",
    """
    abs acos acosh add addbmm addcdiv addcmul addmm addmv amax amin aminmax argmax argmin argsort asin asinh atan atan2
    atanh avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d baddbmm
    batch_norm bitwise_and bitwise_not bitwise_or bitwise_xor bmm cat ceil celu clamp clamp_max clamp_min clone conv1d
    conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cos cosh cumprod cumsum div dot elu embedding eq
    erf erfc exp exp2 expm1 floor floor_divide fmod gather ge gelu glu group_norm gt hardsigmoid hardswish hardtanh
    index_select isfinite isinf isnan layer_norm le leaky_relu lerp linear log log10 log1p log2 log_sigmoid log_softmax
    logical_and logical_not logical_or logical_xor logsumexp lt masked_fill masked_select matmul max max_pool1d
    max_pool2d max_pool3d maximum mean min minimum mish mm mul mv ne neg norm not_equal pow prelu prod reciprocal relu
    relu6 remainder round rsqrt rsub scatter scatter_add selu sgn sigmoid sign silu sin sinh softmax softplus sort sqrt
    square stack std sub sum tan tanh threshold topk tril triu trunc upsample_bilinear2d upsample_nearest2d var
    where zeros_like ones_like full_like rand_like randn_like
    zeros ones full empty rand randn arange linspace eye tensor size stride
""",
)
"""Operators whose results lie in memory of their own, whatever the operands are."""

ITEM_LISTS = _named("aten", "cat stack")
"""Members of `FRESH` that take a list and keep nothing of it."""

LIKE_FIRST = _named(
    "aten",
    """
    contiguous detach dropout expand expand_as feature_dropout flatten movedim narrow permute reshape reshape_as select
    slice split chunk unbind squeeze swapaxes t to transpose type_as unflatten unsqueeze view view_as
    add_ sub_ mul_ div_ relu_ relu6_ sigmoid_ tanh_ clamp_ clamp_min_ clamp_max_ leaky_relu_ elu_ selu_ silu_ hardswish_
    hardsigmoid_ hardtanh_ exp_ sqrt_ masked_fill_ fill_ zero_ copy_ index_put_ scatter_ scatter_add_ neg_ abs_ pow_
""",
)
"""Operators whose result may alias their first operand and no other."""

WRITES_UNSAID = {
    "aten::batch_norm": (5, (3, 4)),
    "aten::instance_norm": (5, (3, 4)),
    "aten::native_batch_norm": (5, (3, 4)),
    "aten::cudnn_batch_norm": (5, (3, 4)),
    "aten::miopen_batch_norm": (5, (3, 4)),
    "aten::_batch_norm_impl_index": (5, (3, 4)),
}
"""Operators that write arguments without a word in the schema: where the flag is that makes them, and which."""

STRUCTURAL = _named(
    "prim",
    """
    Constant If Loop TupleConstruct ListConstruct DictConstruct TupleUnpack ListUnpack TupleIndex TupleSlice
    unchecked_cast unchecked_unwrap_optional isinstance NumToTensor ImplicitTensorToNum RaiseException Uninitialized
    GetAttr Print data dtype device layout is_cuda is_cpu is_sparse is_quantized requires_grad itemsize
    min max abs tolist TupleLen CreateObject Enter Exit SetAttr
""",
)
"""Operators outside of ``aten`` whose effects are known: all but ``SetAttr`` write nothing."""
