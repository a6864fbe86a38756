"""Attention from the datasheet: prompts, decoding, and both in one step."""

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.attention_decode import DecodeParameters, decode_time
from ridgepoint.prediction.physics.attention_mixed import mixed_time
from ridgepoint.prediction.physics.attention_prefill import PrefillParameters, prefill_time
from ridgepoint.prediction.sheet.context import Sheet, Timed, parameters_for
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.workload import Attention

__all__ = ["attention_time"]


_UNIFIED = ("vllm",)
"""Stacks that run a prompt's chunk and decoding sequences in one kernel; others launch one for each."""


def attention_time(sheet: Sheet, op: Attention) -> Timed:
    """One call over all groups of sequences: a prompt's kernel, the decode kernel, or both kinds of sequence in one call."""
    if op.kernel not in ("", "flash"):
        have = f"the kernels of {sheet.stack.framework} were: leave {op.kernel} out"
        raise NotSupported(f"{op.kernel} attention was measured on no GPU; {have}")
    decodes = [op.causal and bool(np.all(np.asarray(g.new) == 1)) for g in op.groups]
    if len(op.groups) == 1:
        return _decode(sheet, op) if decodes[0] else _prompt(sheet, op)
    prefill, found = parameters_for(sheet, "attention_prefill", alike(op.dtype), PrefillParameters)
    decode, found_decode = parameters_for(sheet, "attention_decode", alike(op.dtype), DecodeParameters)
    time = mixed_time(
        sheet.device, prefill, decode, op.dtype, op.groups, op.heads, op.kv_heads, op.head_dim, op.value_dim,
        op.kv_width, op.window, op.causal, op.shared, sheet.stack.framework in _UNIFIED,
    )  # fmt: skip
    return Timed(time, found_decode if all(decodes) else found)


def _prompt(sheet: Sheet, op: Attention) -> Timed:
    operator = "attention_prefill" if op.causal else "attention_encoder"
    p, found = parameters_for(sheet, operator, alike(op.dtype), PrefillParameters)
    (group,) = op.groups
    time = prefill_time(
        sheet.device, p, op.dtype, group.count, group.new, group.context, op.heads, op.kv_heads, op.head_dim,
        op.value_dim, op.kv_width, op.window, op.causal, op.shared,
    )  # fmt: skip
    return Timed(time, found)


def _decode(sheet: Sheet, op: Attention) -> Timed:
    p, found = parameters_for(sheet, "attention_decode", alike(op.dtype), DecodeParameters)
    (group,) = op.groups
    time = decode_time(
        sheet.device, p, op.dtype, group.count, group.context, op.heads, op.kv_heads, op.head_dim, op.value_dim,
        op.kv_width, op.window, op.shared,
    )  # fmt: skip
    return Timed(time, found)
