"""Bytes of what an operator makes: what its caller holds, keeps for a backward pass, and gives back."""

from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, POINTWISE, Attention, Conv, Linear, Matmul, Op, Pointwise

__all__ = ["result_bytes"]


def result_bytes(op: Op) -> Array:
    """Of one call."""
    return _elements(op) * DTYPE_BYTES[op.dtype]


def _elements(op: Op) -> Array:
    """Elements of the operator's output."""
    if isinstance(op, Linear):
        return op.m * op.n
    if isinstance(op, Conv):
        return op.outputs
    if isinstance(op, Matmul):
        return op.batch * op.m * op.n
    if isinstance(op, Attention):
        return sum((g.tokens for g in op.groups), start=0.0) * op.heads * (op.value_dim or op.head_dim)
    if not isinstance(op, Pointwise) or op.kind == "view":
        return 0.0
    return op.rows * op.cols if POINTWISE[op.kind].writes else op.rows
