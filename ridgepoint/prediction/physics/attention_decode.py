"""Time of attention for one new token a sequence on a GPU: keys and values streamed from DRAM, walked in parts by blocks."""

from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.attention_rates import AttentionWork, joined, missing_share, odd_dim, tensor_peak
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.quantity import Array

__all__ = ["DecodeParameters", "decode_time", "decode_work_time"]

Floats = npt.NDArray[np.float64]


class DecodeParameters(Parameters, frozen=True, kw_only=True):
    """What decode kernels of one class, format and software stack reach of the datasheet's rates."""

    launch_s: Annotated[float, within(5e-7, 1e-4, "s, of the smallest call: all kernels that the stack launches")] = (
        8e-6
    )
    dram_share: Annotated[float, within(0.4, 0.97, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.85
    resident: Annotated[float, within(0.02, 1.5, "of L2: what of it the previous call's keys and values hold")] = 0.5
    sm_bytes_per_clock: Annotated[float, within(1, 200, "bytes of keys and values that an SM takes in a clock")] = 25
    step_clocks: Annotated[float, within(5, 2e4, "clocks of a block for each 64 keys, beside their bytes")] = 200
    block_clocks: Annotated[float, within(50, 5e4, "clocks of a block before and after its keys")] = 3000
    slots: Annotated[float, within(1.0, 16, "blocks that an SM works on at once")] = 1.5
    split_s: Annotated[float, within(1e-9, 5e-5, "s, of adding up the parts of a sequence that blocks share")] = 2e-6
    split: Annotated[float, within(0.001, 1.0, "of the blocks that could share a sequence: how many do")] = 0.7
    narrow_s: Annotated[float, within(1e-9, 3e-5, "s more of a head size below 128")] = 1e-8
    single_s: Annotated[float, within(1e-9, 3e-5, "s more where no query heads share a key head")] = 1e-8
    regroup_s: Annotated[float, within(1e-9, 3e-5, "s, of sorting query heads by key head, where both are several")] = (
        1e-8
    )
    sequence_s: Annotated[float, within(1e-12, 1e-6, "s, of each sequence: its page table, its new key written")] = 1e-9
    row_clocks: Annotated[float, within(1, 5e3, "clocks of a block for each query row of 128, 8 at least")] = 50
    group_clocks: Annotated[float, within(1, 5e4, "clocks more of a block that serves several query heads")] = 50
    odd_dim_s: Annotated[float, within(1e-9, 3e-5, "s more of a head size that is no power of two")] = 1e-8
    skipped: Annotated[float, within(1e-4, 1.0, "work of a key before the window, against one in it")] = 1e-3
    alone_windowed: Annotated[float, within(0.001, 1.0, "share of the query heads that walk alone under a window")] = (
        0.02
    )
    tensor_share: Annotated[float, within(0.02, 1.0, "of the dense peak: what the inner loop reaches")] = 0.3
    alone: Annotated[float, within(0.001, 1.0, "share of the query heads beyond 32 a key head that walk alone")] = 0.02
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining blocks and stream: 1 adds, 8 takes the larger")] = (
        2.0
    )


_STEP_KEYS = 64.0
"""Keys of a step."""
_PART_KEYS = 128.0
"""Fewest keys of a part that a sequence is split into."""
_ROWS = 16.0
"""Query heads of a tensor-core tile: fewer cost as many."""
_SHARED_HEADS = 32.0
"""Query heads of one key head that one block serves; beyond, a second block walks the same keys."""


def decode_time(
    device: Device, p: DecodeParameters, dtype: str, batch: Array, keys: Array, heads: Array, kv_heads: Array,
    head_dim: Array, value_dim: Array = 0.0, kv_bytes: Array = 2.0, window: Array = 0.0, shared: bool = False,
    warm: bool = False,
) -> PhysicalTime:  # fmt: skip
    """Time of one call in which each of `batch` sequences attends with one new token to `keys` keys, its own included.

    All broadcast; the arguments are those of `prefill_time`. A block walks the keys of one sequence and key head for up
    to 32 query heads; where there are fewer blocks than the SMs hold, they share a sequence and add up their parts
    (Flash-Decoding, Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html), if that is faster.
    Keys and values pass DRAM once. Time grows with batch and keys. Raises NotSupported where the device does not
    multiply `dtype`. Ignored: page size, sequences of different lengths, clocks under a power limit.
    """
    work = AttentionWork.of(batch, 1.0, keys, heads, kv_heads, head_dim, value_dim, kv_bytes, window, True, shared)
    return decode_work_time(device, p, dtype, work, warm)


def decode_work_time(
    device: Device, p: DecodeParameters, dtype: str, work: AttentionWork, warm: bool = False
) -> PhysicalTime:
    """The same for sizes that are already known."""
    peak = tensor_peak(device, dtype)
    group = work.heads / work.kv_heads
    compulsory = work.kv_read_bytes + work.query_bytes
    if warm:
        compulsory = compulsory * missing_share(compulsory / (device.l2_bytes * p.resident))
    memory_s = compulsory / device.dram_bytes_per_s
    fixed_s = (
        p.launch_s
        + p.regroup_s * ((group > 1.0) & (work.kv_heads > 1.0))
        + p.single_s * (group == 1.0)
        + p.narrow_s * (work.head_dim < 128.0)
        + p.sequence_s * work.batch
        + p.odd_dim_s * odd_dim(work.head_dim)
    )
    busy_s = _busy_s(device, p, work, group, peak)
    compute_s = work.flops / peak
    seconds = np.maximum(
        fixed_s + joined(p.sharpness, busy_s, memory_s / (device.stream_share * p.dram_share)), compute_s
    )
    return PhysicalTime(seconds, compute_s, memory_s, seconds * 0.0 + fixed_s)


def _busy_s(device: Device, p: DecodeParameters, work: AttentionWork, group: Floats, peak: float) -> Floats:
    """Seconds that the SMs take, the sum of a split sequence's parts included."""
    alone = np.maximum(
        np.where(group > _SHARED_HEADS, p.alone, 0.0), np.where(np.isfinite(work.window), p.alone_windowed, 0.0)
    )
    walkers = (1.0 - alone) * np.ceil(group / _SHARED_HEADS) + alone * group
    rows = group / walkers
    blocks = np.maximum(work.batch, 1.0) * work.kv_heads * walkers
    slots = device.sm_count * p.slots
    sm_flops_per_clock = peak / (device.sm_count * device.clock_hz) * p.tensor_share
    arithmetic = 2.0 * np.maximum(rows, _ROWS) * work.both / sm_flops_per_clock
    key = p.step_clocks / _STEP_KEYS + p.slots * np.maximum(work.key_bytes / p.sm_bytes_per_clock, arithmetic)
    skipped = (work.kv_len - work.keys) * (p.skipped * p.step_clocks / _STEP_KEYS)
    ends = p.block_clocks + p.row_clocks * (rows + 8.0) * work.both / 256.0 + p.group_clocks * (rows > 1.0)
    whole = np.maximum(blocks / slots, 1.0) * (ends + work.keys * key + skipped)
    parts = np.clip(slots / blocks, 1.0, np.maximum(work.keys / _PART_KEYS, 1.0))
    parts = 1.0 + p.split * (parts - 1.0)
    shared = np.maximum(blocks * parts / slots, 1.0) * (ends + work.keys / parts * key + skipped)
    return np.minimum(whole / device.clock_hz, shared / device.clock_hz + p.split_s)
