"""The naive ratio that a promise was made of, computed from the two plans: bits, bytes, FLOPs, zeros, devices, peaks."""

from collections.abc import Callable

from ridgepoint.errors import BadInput
from ridgepoint.hardware import Target
from ridgepoint.study.promises.case import Claim
from ridgepoint.workload import DTYPE_BYTES, Attention, Linear, Plan

__all__ = ["claimed"]


def claimed(claim: Claim, a: Plan, b: Plan, target_a: Target, target_b: Target) -> float:
    """How many times faster B would be per token, were time the ratio of `claim`.

    Ignored on purpose: everything else. BadInput where one of the plans has nothing of the kind.
    """
    if claim.ratio == "zeros":
        return 1.0 / (1.0 - (claim.zeros or 0.0))
    if claim.ratio == "devices":
        return b.parallel.devices / a.parallel.devices
    if claim.ratio == "batch":
        return float(b.step.sequences) / float(a.step.sequences)
    if claim.ratio == "peak":
        return target_b.flops_per_s(b.dtype) / target_a.flops_per_s(a.dtype)
    if claim.ratio == "bits":
        over, under = _quantised_bytes(a, b)
    else:
        over, under = (_COUNTS[claim.ratio](plan) for plan in (a, b))
    if not over > 0 or not under > 0:
        raise BadInput(f"{a.workload.name}: its sides have no {claim.ratio} to compare")
    return over / under * float(b.step.tokens) / float(a.step.tokens)


def _quantised_bytes(a: Plan, b: Plan) -> tuple[float, float]:
    """Stored bytes of those linear layers that B quantises, on both sides; of all where it quantises none."""
    theirs = {op.name: op for op in b.ops if isinstance(op, Linear)}
    pairs = [(op, theirs[op.name]) for op in a.ops if isinstance(op, Linear) and op.name in theirs]
    chosen = [(x, y) for x, y in pairs if y.weight != y.dtype] or pairs
    over, under = (sum(pair[i].count * float(pair[i].stored_bytes) for pair in chosen) for i in (0, 1))
    return over, under


def _flops(plan: Plan) -> float:
    return sum(op.count * float(op.flops) for op in plan.ops)


def _bytes(plan: Plan) -> float:
    return sum(op.count * float(op.bytes) for op in plan.ops)


def _attention_bytes(plan: Plan) -> float:
    """Traffic of attention; a kernel that keeps the scores in memory writes and reads them twice (scores, softmax).

    FlashAttention (arXiv 2205.14135, section 3.2): Θ(n d + n²) accesses of the standard algorithm.
    """
    total = 0.0
    for op in plan.ops:
        if isinstance(op, Attention):
            scores = 0.0
            if op.kernel == "math":
                scores = 4.0 * DTYPE_BYTES[op.dtype] * op.heads * sum(float(op.pairs(g)) for g in op.groups)
            total += op.count * (float(op.bytes) + scores)
    return total


_COUNTS: dict[str, Callable[[Plan], float]] = {
    "weight bytes": lambda plan: float(plan.weight_bytes),
    "KV bytes": lambda plan: float(plan.kv_cache_bytes),
    "bytes": _bytes,
    "attention bytes": _attention_bytes,
    "FLOPs": _flops,
}
