"""Model FLOPs utilisation: how much of the peak a training step turns into products that the model needs."""

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.prediction.roofline import compute_dtype
from ridgepoint.workload import Attention, Linear, Op, Plan

__all__ = ["DEFINITION", "model_flops", "peak_flops_per_s"]

DEFINITION = (
    "mfu.v1: FLOPs of the step's operators, forward, backward and update, each once and without what is recomputed, per second "
    "/ the target's dense peak of the dtype that multiplies, times the threads; of a calibrated target the peak is what one "
    "thread attained (Chowdhery et al. 2022, arXiv 2204.02311, appendix B)"
)


def model_flops(plan: Plan) -> float:
    """FLOPs of one step on one device; what checkpointing and attention's gradient compute a second time is left
    out."""
    return float(sum(op.count * op.flops * _needed(op) for op in plan.ops if op.sweep != "recompute"))


def _needed(op: Op) -> float:
    """Share of an operator's FLOPs that the model needs: FlashAttention's gradient redoes the scores, one product of five."""
    return 0.8 if isinstance(op, Attention) and op.sweep == "grad_input" else 1.0


def peak_flops_per_s(plan: Plan, target: Target) -> float | None:
    """The peak that counts as 1; None where the target has none for the dtype."""
    op = next((op for op in plan.ops if isinstance(op, Linear)), None)
    try:
        dtype = plan.dtype if op is None else compute_dtype(op, target)
        return target.flops_per_s(dtype) * plan.threads
    except NotSupported:
        return None
