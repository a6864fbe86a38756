"""How much of a step's bytes is still in the last-level cache when the step comes round again."""

from collections.abc import Sequence

from ridgepoint.hardware import Target
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Attention, Linear, Op, Plan, Pointwise

__all__ = ["CodeKey", "code_key", "code_miss_shares", "miss_share", "working_set_bytes"]


CodeKey = tuple[str, str, str]
"""Kind, dtype and weight format."""


def working_set_bytes(ops: Sequence[Op], target: Target) -> Array:
    """Bytes of the last-level cache that one step displaces: weights of every layer as often as their kernel copies
    them, keys and values. Ignored: activations, which are reused, but what a quantised cache is read into."""
    total: Array = 0.0
    for op in ops:
        if isinstance(op, Linear):
            total = total + op.count * (op.weight_bytes * _displacement(op, target) + op.kv_bytes)
        elif isinstance(op, Attention):
            total = total + op.count * (op.weight_bytes + op.kv_bytes)
        elif op.kind.startswith("kv_read"):  # its copy is made again and again in the same memory
            total = total + op.count * (op.activation_bytes - _copied(op)) + _copied(op)
    return total


def _copied(op: Op) -> Array:
    assert isinstance(op, Pointwise), "reading a quantised cache is pointwise"
    return DTYPE_BYTES[op.dtype] * op.rows * op.cols


def _displacement(op: Linear, target: Target) -> Array:
    """By the packed kernel of its format, else by any."""
    mine = (law for law in target.linear_laws(op.weight) if law.act == op.dtype)
    laws = sorted((law for law in mine if (law.rung == "ort") == (op.kernel == "ort")), key=lambda x: x.rung == "naive")
    return laws[0].displacement(op.m) if laws else 1.0


def code_miss_shares(ops: Sequence[Op], target: Target, displaced: Array) -> dict[CodeKey, Array]:
    """Share of an operator's code that left the cache since its last call, by kind, dtype and format.

    A framework's code for one operator is some hundred cache lines; between two calls the weights of all layers in
    between pass through the cache. Their bytes, the reuse distance, decide by the target's measured residency. A small
    operator takes five times as long when its code comes from memory.
    """
    calls: dict[CodeKey, int] = {}
    for op in ops:
        calls[code_key(op)] = calls.get(code_key(op), 0) + op.count
    law = target.code_residency or target.residency
    if law is None:
        return dict.fromkeys(calls, 0.0)
    return {key: law.miss_share(displaced / count) for key, count in calls.items()}


def code_key(op: Op) -> CodeKey:
    """Operators with one key run the same code."""
    return op.kind, op.dtype, op.weight if isinstance(op, Linear) else ""


def miss_share(plan: Plan, target: Target, displaced: Array) -> Array:
    """Share of those bytes that come from memory, by the target's measured residency (1 where it has none,
    and for a workload that rotates its weights).

    `displaced`: the working set; divided by what is left of the cache, as a multiple of what the calibration found,
    where that changes.
    """
    if target.residency is None or getattr(plan.workload, "cold", False):
        return 1.0
    return target.residency.miss_share(displaced)
