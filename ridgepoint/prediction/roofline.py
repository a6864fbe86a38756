"""The datasheet-style roofline, max(FLOPs / peak, bytes / bandwidth): yardstick of every prediction, and of bounds."""

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.quantity import Array
from ridgepoint.result import Bound
from ridgepoint.workload import Op, Plan, arithmetic_dtype

__all__ = ["bound_of", "compute_dtype", "roofline_seconds"]

_DISPATCH_SHARE = 0.5


def roofline_seconds(plan: Plan, target: Target) -> Array:
    """Williams et al. 2009 (doi 10.1145/1498765.1498785) per operator, summed.

    Ignored: caches, dispatch, kernel efficiency.
    """
    total: Array = 0.0
    for op in plan.ops:
        math_s = op.flops / target.flops_per_s(compute_dtype(op, target))
        traffic_s = op.bytes / target.memory_bytes_per_s()
        total = total + op.count * np.maximum(math_s, traffic_s)
    return total


def compute_dtype(op: Op, target: Target) -> str:
    """The dtype whose units do the arithmetic; that of the activations where the target has no peak for int8."""
    dtype = arithmetic_dtype(getattr(op, "weight", op.dtype), op.dtype)
    return op.dtype if dtype == "int8" and all(p.dtype != "int8" for p in target.peaks) else dtype


def bound_of(op: Op, seconds: float, target: Target, miss: float) -> Bound:
    """What the operator's time is nearest to: compute, memory or cache; dispatch where neither explains half of it."""
    try:
        math_s = op.count * float(op.flops) / target.flops_per_s(compute_dtype(op, target))
        traffic_s = op.count * float(op.bytes) / target.memory_bytes_per_s()
    except NotSupported:
        return ""
    calls_s = op.count * (target.correction.per_call_s if target.correction else 0.0)
    if max(math_s, traffic_s) < _DISPATCH_SHARE * seconds and calls_s > 0.25 * seconds:
        return "dispatch"
    if math_s >= traffic_s:
        return "compute"
    return "memory" if miss > 0.5 else "cache"
