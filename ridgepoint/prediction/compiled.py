"""Time of what torch.compile makes of a step: fused kernels, kept calls, guards; and of the compilation itself."""

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.hardware.law_compiled import CompiledLaw
from ridgepoint.prediction.used import Used, far_share, scaling_of
from ridgepoint.quantity import Array
from ridgepoint.workload import Fused, Plan

__all__ = ["compilation_seconds", "compiled_law", "fused_time"]


def compiled_law(target: Target, dtype: str) -> CompiledLaw:
    """NotSupported where the target has none for the dtype."""
    for law in target.compiled:
        if law.dtype == dtype:
            return law
    have = ", ".join(law.dtype for law in target.compiled)
    if have:
        raise NotSupported(f"{target.name} knows compiled steps in {have}, not in {dtype}")
    raise NotSupported(f"{target.name} knows eager steps only; `ridge calibrate --compile` adds compiled ones")


def fused_time(op: Fused, target: Target, threads: int) -> tuple[Array, tuple[Used, ...]]:
    """Seconds of one call: the kernel's start, its bytes and its arithmetic, never faster than the cache that holds the bytes;
    those beyond the last cache at memory's speed.

    Ignored: that a sum over a row cannot be taken while the row is written, which costs a second pass in the cache.
    """
    law = compiled_law(target, op.dtype)
    near = law.fused_s(op.bytes, op.flops, target.cache_bytes_per_s(op.bytes))
    far = op.bytes * far_share(op.bytes, target)
    seconds = near + far / target.memory_bytes_per_s() if target.residency is not None else near
    return seconds / scaling_of(target, "pointwise", op.parts[0].rows, threads), (Used("fused", law.sigma),)


def compilation_seconds(plan: Plan, target: Target) -> float:
    """Seconds until the plan's first step is compiled, once for each shape."""
    return compiled_law(target, plan.dtype).compilation_s(sum(op.count for op in plan.ops))
