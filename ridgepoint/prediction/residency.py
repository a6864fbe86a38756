"""How much of a step's bytes is still in the last-level cache when the step comes round again."""

from ridgepoint.hardware import Target
from ridgepoint.quantity import Array
from ridgepoint.workload import Attention, Linear, Plan

__all__ = ["miss_share", "working_set_bytes"]


def working_set_bytes(plan: Plan) -> Array:
    """Bytes that one step touches: weights of every layer, keys and values. Ignored: activations, which are reused."""
    return sum(
        (op.count * (op.weight_bytes + op.kv_bytes) for op in plan.ops if isinstance(op, Linear | Attention)), start=0.0
    )


def miss_share(plan: Plan, target: Target) -> Array:
    """Share of those bytes that come from memory, by the target's measured residency (1 where it has none,
    and for a workload that rotates its weights)."""
    if target.residency is None or getattr(plan.workload, "cold", False):
        return 1.0
    return target.residency.miss_share(working_set_bytes(plan))
