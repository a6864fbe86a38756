"""Reading and writing a quantised KV cache where no calibration measured it: the passes that torch makes over the tensors."""

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.quantity import Array
from ridgepoint.workload import Pointwise

__all__ = ["PASSES", "PASS_SIGMA", "passes_seconds"]

PASSES = {
    "kv_read_int8": 2,  # widen, multiply
    "kv_read_fp8": 5,  # widen, shift, mask, to the dtype, multiply
    "kv_read_int4": 6,  # low halves, high halves, interleave, widen, multiply, add
    "kv_write_int8": 7,  # to fp32, size, largest, divide, round, narrow, store
    "kv_write_fp8": 3,  # cut off, narrow, store
    "kv_write_int4": 10,  # to fp32, smallest and largest, subtract, divide, round, cut off, narrow, shift, join, store
}
"""Operators of `kernels.kv_cache` that pass over all elements of keys, and as many over those of values."""
PASS_SIGMA = 0.5
"""A pass over narrow integers is not one over floats: seen within a factor of 1.6 either way."""


def passes_seconds(op: Pointwise, target: Target, code_miss: Array) -> Array:
    """Seconds of one call as so many calls of the plainest operator that the target was calibrated for, keys and values
    apart. `ridge calibrate --kv` measures the calls themselves."""
    for kind in ("scale", "add"):
        law = next((x for x in target.pointwise if x.kind == kind and x.dtype == op.dtype), None)
        if law is not None:
            return 2 * PASSES[op.kind] * law.seconds(op.rows, op.cols / 2, code_miss)
    raise NotSupported(f"{target.name} has no pointwise operators for {op.dtype}; `ridge calibrate` measures them")
