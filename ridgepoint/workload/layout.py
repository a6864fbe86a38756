"""Operators on images by the order in which they lie in memory: channels first, or last."""

from dataclasses import replace

from ridgepoint.workload.contraction import Conv
from ridgepoint.workload.op import Op, Pointwise

__all__ = ["LARGE_IMAGE", "LAST_KINDS", "laid_out"]

LARGE_IMAGE = 1024
"""Pixels from which torch normalises groups of channels-last images by another algorithm, pixel by pixel with all channels
(`feature_map_threshold` in aten/src/ATen/native/cpu/group_norm_kernel.cpp, torch 2.13)."""
_POOLS = {"pool": "pool_last", "avg_pool": "avg_pool_last"}
_SMALL, _LARGE = "group_norm_last", "group_norm_last_large"
LAST_KINDS = (*_POOLS.values(), _SMALL, _LARGE)
"""Kinds of which torch has other code for channels last: pooling has no branches there."""
_FIRST_POOLS = {last: first for first, last in _POOLS.items()}


def laid_out(op: Op, last: bool) -> Op:
    """The operator on images in that order; others as they are.

    Of small images with channels last a row of a group norm is what it reads in one piece: a group's channels of one pixel.
    Ignored: of large ones, channels that no whole number of vector registers holds (up to four times as slow in bf16).
    """
    if isinstance(op, Conv):
        return replace(op, layout="last" if last else "")
    if not isinstance(op, Pointwise) or not op.pixels:
        return op
    if op.kind in (_SMALL, _LARGE, "group_norm"):
        return _group_norm(op, last)
    return replace(op, kind=(_POOLS if last else _FIRST_POOLS).get(op.kind, op.kind))


def _group_norm(op: Pointwise, last: bool) -> Pointwise:
    if op.kind == _SMALL:
        op = replace(op, rows=op.rows / op.pixels, cols=op.cols * op.pixels)
    if not last:
        return replace(op, kind="group_norm")
    if op.pixels >= LARGE_IMAGE:
        return replace(op, kind=_LARGE)
    return replace(op, kind=_SMALL, rows=op.rows * op.pixels, cols=op.cols / op.pixels)
