"""Attention from the datasheet: prompts, decoding, and both in one step."""

import numpy as np

from ridgepoint.prediction.physics.attention_decode import DecodeParameters, decode_time
from ridgepoint.prediction.physics.attention_prefill import PrefillParameters, prefill_time
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.sheet.context import Sheet, Timed, parameters_for
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Attention, Group

__all__ = ["attention_time"]


def attention_time(sheet: Sheet, op: Attention) -> Timed:
    """One call over all groups of sequences: those with one new token in the decode kernel, each other group by itself.

    Of a step with both, the times add up: stacks launch two kernels, or one whose blocks share the SMs in turn.
    """
    one = [g for g in op.groups if np.all(np.asarray(g.new) == 1) and op.causal]
    many = [g for g in op.groups if g not in one]
    timed = [_prompt(sheet, op, group) for group in many]
    timed += [_decode(sheet, op, one)] if one else []
    longest = max(timed, key=lambda t: float(np.max(np.asarray(t.time.seconds))))
    return longest if len(timed) == 1 else Timed(_sum([t.time for t in timed]), longest.found)


def _prompt(sheet: Sheet, op: Attention, group: Group) -> Timed:
    operator = "attention_prefill" if op.causal else "attention_encoder"
    p, found = parameters_for(sheet, operator, alike(op.dtype), PrefillParameters)
    time = prefill_time(
        sheet.device, p, op.dtype, group.count, group.new, group.context, op.heads, op.kv_heads, op.head_dim,
        op.value_dim, DTYPE_BYTES[op.dtype], op.window, op.causal, op.shared,
    )  # fmt: skip
    return Timed(time, found)


def _decode(sheet: Sheet, op: Attention, groups: list[Group]) -> Timed:
    """All sequences with one new token, as if each had the mean number of keys."""
    p, found = parameters_for(sheet, "attention_decode", alike(op.dtype), DecodeParameters)
    batch: Array = sum((g.count for g in groups), start=0.0)
    keys = sum((g.count * g.context for g in groups), start=0.0) / batch
    time = decode_time(
        sheet.device, p, op.dtype, batch, keys, op.heads, op.kv_heads, op.head_dim, op.value_dim,
        DTYPE_BYTES[op.dtype], op.window, op.shared,
    )  # fmt: skip
    return Timed(time, found)


def _sum(times: list[PhysicalTime]) -> PhysicalTime:
    def total(name: str) -> Array:
        return sum((getattr(t, name) for t in times), start=0.0)

    return PhysicalTime(total("seconds"), total("compute_s"), total("memory_s"), total("fixed_s"))
