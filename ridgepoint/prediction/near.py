"""Calls of a small network find their code and data in the second-level cache: what that saves, by bytes in between."""

from collections.abc import Sequence

from ridgepoint.hardware import Target
from ridgepoint.prediction.residency import CodeKey, code_key
from ridgepoint.quantity import Array
from ridgepoint.workload import Linear, Op, Plan, Traced

__all__ = ["near_seconds"]


def near_seconds(plan: Plan, target: Target, ops: Sequence[Op]) -> dict[CodeKey, Array]:
    """Seconds that a call saves, by operators that run the same code; of modules only.

    Between two calls of the same code pass, in the mean, all bytes of the step over the number of its calls. Ignored:
    small decoders, and that the factors of laws that decoders share hold a part of the saving already.
    """
    law = target.near
    if law is None or not isinstance(plan.workload, Traced) or plan.launch == "compile":
        return {}
    calls: dict[CodeKey, int] = {}
    for op in ops:
        calls[code_key(op)] = calls.get(code_key(op), 0) + op.count
    moved = sum((op.count * op.bytes for op in ops), start=0.0)
    return {
        code_key(op): law.seconds(
            op.weight if isinstance(op, Linear) else op.kind, op.dtype, moved / calls[code_key(op)]
        )
        for op in ops
    }
