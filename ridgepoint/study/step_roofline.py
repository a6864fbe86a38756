"""What analysts' tools say of a step: FLOPs over peak or bytes over bandwidth, by the datasheet alone."""

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.physics.device import device_of
from ridgepoint.quantity import Array
from ridgepoint.study.published.table import Floats
from ridgepoint.workload import Linear, Plan, arithmetic_dtype

__all__ = ["roofline_s"]


def roofline_s(plan: Plan, target: Target) -> Floats:
    """max(FLOPs / peak, bytes / bandwidth) of a plan's step on one of its devices; collectives are left out."""
    device = device_of(target)
    peaks = device.tensor_flops_per_s or device.vector_flops_per_s
    flops: Array = 0.0
    moved: Array = 0.0
    for op in plan.ops:
        if op.kind == "collective":
            continue
        moved = moved + op.count * op.bytes
        if isinstance(op, Linear):
            unit = arithmetic_dtype(op.weight, plan.dtype)
            rate = peaks.get(unit) or max(peaks.values())
            flops = flops + op.count * op.flops / rate
        elif op.kind == "attention":
            flops = flops + op.count * op.flops / (peaks.get(plan.dtype) or max(peaks.values()))
    return np.asarray(np.maximum(flops, moved / device.dram_bytes_per_s), float)
