"""Pointwise operators from the datasheet: norms, activations, rotary embedding, look-ups, and residuals added in a norm."""

from dataclasses import replace

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.pointwise import (
    ELEMENT_BYTES,
    POINTWISE,
    PointwiseOperator,
    PointwiseParameters,
    pointwise_time,
)
from ridgepoint.prediction.sheet.context import Sheet, Timed, parameters_for
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.quantity import Array
from ridgepoint.workload import Fused, Pointwise

__all__ = ["normed_sum_time", "one_time"]

_NAMES = {
    "embedding": "embedding", "rms_norm": "rmsnorm", "layer_norm": "layernorm", "rope": "rope", "kv_write": "add_scalar",
    "add": "add", "silu_mul": "silu_mul", "gelu_mul": "silu_mul", "gelu": "gelu", "gelu_erf": "gelu", "relu": "relu",
    "scale": "mul_scalar", "softcap": "tanh", "sigmoid": "tanh", "softmax": "softmax", "route": "softmax",
    "cross_entropy": "softmax", "copy": "add_scalar", "transpose": "add_scalar", "view": "", "adamw": "add",
    "norm_weight": "add", "adapter_add": "add", "recompute_hooks": "",
}  # fmt: skip
"""Which measured operator stands for a kind of ours: the same reads and writes, and about the same arithmetic."""
_PASSES = {"adamw": 7 / 3}
"""Tensors that pass for each that the stand-in passes."""


def one_time(sheet: Sheet, op: Pointwise) -> Timed | None:
    """One call; None of what takes no time of its own (a view)."""
    name = _NAMES.get(op.kind)
    if name is None:
        raise NotSupported(f"{op.kind} is not predicted from a datasheet yet; possible: {', '.join(sorted(_NAMES))}")
    if not name:
        return None
    return _timed(sheet, POINTWISE[name], op, op.cols * (2.0 if name == "silu_mul" else _PASSES.get(op.kind, 1.0)))


def normed_sum_time(sheet: Sheet, op: Fused) -> Timed:
    """A residual added by the norm behind it: one tensor more in, and the sum out, in the norm's own kernel."""
    _, norm = op.parts
    measured = POINTWISE[_NAMES[norm.kind]]
    fused = replace(measured, reads=measured.reads + 1, writes=measured.writes + 1)
    return _timed(sheet, fused, norm, norm.cols)


def _timed(sheet: Sheet, measured: PointwiseOperator, op: Pointwise, cols: Array) -> Timed:
    dtypes = tuple(dict.fromkeys((*alike(op.dtype), "fp32")))
    p, found = parameters_for(sheet, "pointwise", dtypes, PointwiseParameters, measured.family)
    return Timed(pointwise_time(sheet.device, p, measured, ELEMENT_BYTES[op.dtype], op.rows, cols), found)
