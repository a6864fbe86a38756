"""Operators on images by the order in which they lie in memory: channels first, or last."""

from dataclasses import replace

from ridgepoint.workload.contraction import Conv
from ridgepoint.workload.op import Op, Pointwise

__all__ = ["LAST_KINDS", "laid_out"]

LAST_KINDS = {"pool": "pool_last", "group_norm": "group_norm_last"}
"""Kinds of which torch has other code for channels last: pooling has no branches there."""
_FIRST_KINDS = {last: first for first, last in LAST_KINDS.items()}


def laid_out(op: Op, last: bool) -> Op:
    """The operator on images in that order; others as they are."""
    if isinstance(op, Conv):
        return replace(op, layout="last" if last else "")
    if isinstance(op, Pointwise):
        return replace(op, kind=(LAST_KINDS if last else _FIRST_KINDS).get(op.kind, op.kind))
    return op
