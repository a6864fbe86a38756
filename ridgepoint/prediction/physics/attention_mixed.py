"""Time of attention in one step of continuous batching on a GPU: prefill chunks beside sequences that decode."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.attention_decode import DecodeParameters, decode_work_time
from ridgepoint.prediction.physics.attention_prefill import PrefillParameters, tiled_time
from ridgepoint.prediction.physics.attention_rates import AttentionWork, missing_share, summed
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.quantity import Array
from ridgepoint.workload import Group

__all__ = ["mixed_time"]

Floats = npt.NDArray[np.float64]


def mixed_time(
    device: Device, prefill: PrefillParameters, decode: DecodeParameters, dtype: str, groups: Sequence[Group],
    heads: Array, kv_heads: Array, head_dim: Array, value_dim: Array = 0.0, kv_bytes: Array = 2.0, window: Array = 0.0,
    causal: bool = True, shared: bool = False, fused: bool = True, warm: bool = False,
) -> PhysicalTime:  # fmt: skip
    """Time of one call over `groups` of like sequences, whose counts may be 0; the rest is as in `prefill_time`.

    Groups with one new token each decode. Beside a prefill chunk they run in its kernel (`fused`, as in vLLM's unified
    call: each head of a sequence is a tile of one row, no keys split over SMs), or in a kernel of their own after it.
    Without a chunk it is decode, all groups in one kernel. Raises NotSupported where the device does not multiply
    `dtype`. Ignored: different lengths in a group.
    """
    sizes = (heads, kv_heads, head_dim, value_dim, kv_bytes, window, causal, shared)
    works = [AttentionWork.of(g.count, g.new, np.asarray(g.cached) + g.new, *sizes) for g in groups]
    chunks = [replace(w, batch=np.where(w.new > 1.0, w.batch, 0.0)) for w in works]
    singles = [replace(w, batch=np.where(w.new > 1.0, 0.0, w.batch)) for w in works]
    beside = [_read_apart(device, prefill, w) for w in singles]
    chunk_time = tiled_time(device, prefill, dtype, [*chunks, *beside] if fused else chunks, warm)
    decode_time = _summed([(w, decode_work_time(device, decode, dtype, w, warm)) for w in singles])
    has_chunk, has_single = (np.asarray(summed(w.batch for w in ws) > 0.0) for ws in (chunks, singles))
    if fused:
        return _where(has_chunk, chunk_time, decode_time)
    both = _added(chunk_time, decode_time)
    return _where(has_chunk & has_single, both, _where(has_chunk, chunk_time, decode_time))


def _read_apart(device: Device, p: PrefillParameters, work: AttentionWork) -> AttentionWork:
    """Tiles follow each other by sequence before head, so heads that share keys run apart where sequences fill the SMs."""
    group = work.heads / work.kv_heads
    at_once = np.maximum(device.sm_count * p.slots / np.maximum(work.batch, 1.0), 1.0)
    lost = missing_share(work.kv_read_bytes / work.kv_heads / device.l2_bytes)
    lost = lost * (1.0 - p.packed)
    return replace(work, reads=1.0 + (np.maximum(group / at_once, 1.0) - 1.0) * lost)


def _summed(parts: Sequence[tuple[AttentionWork, PhysicalTime]]) -> PhysicalTime:
    """Groups in one kernel: what a launch takes once, the rest of each that has sequences."""
    here = [work.batch > 0.0 for work, _ in parts]
    times = [time for _, time in parts]
    fixed_s = np.asarray(0.0)
    for present, time in zip(here, times, strict=True):
        fixed_s = np.maximum(fixed_s, np.where(present, time.fixed_s, 0.0))
    rest_s, compute_s, memory_s = (
        summed(np.where(present, value(time), 0.0) for present, time in zip(here, times, strict=True))
        for value in (_beyond_fixed, lambda time: time.compute_s, lambda time: time.memory_s)
    )
    return PhysicalTime(fixed_s + rest_s, compute_s, memory_s, fixed_s)


def _beyond_fixed(time: PhysicalTime) -> Array:
    return np.asarray(time.seconds) - time.fixed_s


def _where(mask: npt.NDArray[np.bool_], yes: PhysicalTime, no: PhysicalTime) -> PhysicalTime:
    return PhysicalTime(
        np.where(mask, yes.seconds, no.seconds), np.where(mask, yes.compute_s, no.compute_s),
        np.where(mask, yes.memory_s, no.memory_s), np.where(mask, yes.fixed_s, no.fixed_s),
    )  # fmt: skip


def _added(a: PhysicalTime, b: PhysicalTime) -> PhysicalTime:
    return PhysicalTime(
        np.asarray(a.seconds) + b.seconds, np.asarray(a.compute_s) + b.compute_s, np.asarray(a.memory_s) + b.memory_s,
        np.asarray(a.fixed_s) + b.fixed_s,
    )  # fmt: skip
