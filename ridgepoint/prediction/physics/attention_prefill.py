"""Time of attention for many new tokens a sequence on a GPU: tiles of queries in waves over the SMs, each along its keys."""

from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.attention_rates import AttentionWork, joined, missing_share, tensor_peak
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.quantity import Array

__all__ = ["PrefillParameters", "prefill_time"]

Floats = npt.NDArray[np.float64]


class PrefillParameters(Parameters):
    """What prefill kernels of one class, format and software stack reach of the datasheet's rates."""

    launch_s: Annotated[float, within(5e-7, 1e-4, "s, of the smallest call: all kernels that the stack launches")] = (
        1e-5
    )
    tensor_share: Annotated[float, within(0.02, 1.0, "of the dense peak: what a tile's inner loop reaches")] = 0.7
    exp_share: Annotated[float, within(0.05, 1.5, "of the exponentials that the SFUs do in a clock")] = 0.7
    overlap: Annotated[float, within(1.0, 8.0, "exponent joining products and softmax: 1 adds, 8 hides one")] = 2.0
    step_clocks: Annotated[float, within(10, 2e4, "clocks of a tile for each 64 keys where nothing else bounds it")] = (
        500
    )
    tile_clocks: Annotated[float, within(50, 5e4, "clocks of a tile of queries before and after its keys")] = 4000
    row_bytes_per_clock: Annotated[float, within(2, 1e3, "bytes of queries and results that an SM moves in a clock")] = 60
    wide: Annotated[float, within(0.01, 3.0, "exponent of a head size beyond 128, in 128: what tiles lose to it")] = 0.1
    packed: Annotated[float, within(0.001, 1.0, "share of tiles whose rows are all query heads of a key head")] = 0.1
    packed_one: Annotated[float, within(0.001, 1.0, "the same where one token of a sequence is new")] = 0.3
    resident: Annotated[float, within(0.02, 1.5, "of L2: what of it the previous call's tensors still hold")] = 0.3
    slots: Annotated[float, within(1.0, 8, "tiles that an SM works on at once")] = 1.2
    tail: Annotated[float, within(0.001, 1.0, "of the longest tile: what SMs without work wait at the end")] = 0.3
    dram_share: Annotated[float, within(0.5, 0.97, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.8
    key_passes: Annotated[float, within(0.01, 40, "times that keys and values pass DRAM beside the kernel")] = 0.3
    sequence_s: Annotated[float, within(1e-12, 1e-6, "s, of each sequence: its page table, its share of a launch")] = (
        1e-9
    )
    odd_dim_s: Annotated[float, within(1e-9, 3e-5, "s more of a head size that is no power of two")] = 1e-8
    skipped: Annotated[float, within(1e-3, 1.0, "work of a key before the window, against one in it")] = 0.01
    window_edge: Annotated[float, within(0.05, 8.0, "keys of a window's far edge that are masked, in tile rows")] = 0.5
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining SM and DRAM time: 1 adds, 8 takes the larger")] = 3.0


_EXPONENTIALS_PER_CLOCK = 16.0
"""Of one SM's special function units."""
_STEP_KEYS = 64.0
_TILES = (16.0, 64.0, 128.0)
"""Query rows of a tile."""


def prefill_time(
    device: Device, p: PrefillParameters, dtype: str, batch: Array, new: Array, kv_len: Array, heads: Array,
    kv_heads: Array, head_dim: Array, value_dim: Array = 0.0, kv_bytes: Array = 2.0, window: Array = 0.0,
    causal: bool = True, shared: bool = False, warm: bool = False,
) -> PhysicalTime:  # fmt: skip
    """Time of one call: each of `batch` sequences attends with `new` tokens to `kv_len` keys, cached and new."""
    work = AttentionWork.of(batch, new, kv_len, heads, kv_heads, head_dim, value_dim, window, causal)
    peak = tensor_peak(device, dtype)
    tokens = work.batch * work.new
    q_bytes = tokens * work.heads * work.both * 2.0
    kv = work.batch * work.kv_heads * (work.head_dim if shared else work.both)
    kv_read = kv * work.keys * kv_bytes
    compulsory = q_bytes + kv_read
    missing = missing_share(compulsory / (device.l2_bytes * p.resident)) if warm else 1.0
    compulsory = compulsory * missing
    dram = compulsory + p.key_passes * kv * work.new * 2.0
    stream_s = dram / (device.dram_bytes_per_s * p.dram_share)
    alone_s, packed_s = (_fastest_s(device, p, work, peak, causal, packs) for packs in (False, True))
    packed = np.where(work.new > 1.0, p.packed, p.packed_one)
    busy_s = (1.0 - packed) * alone_s + packed * packed_s
    flops = 2.0 * work.batch * work.heads * work.pairs * work.both
    fixed_s = p.launch_s + p.sequence_s * work.batch + p.odd_dim_s * (np.log2(work.head_dim) % 1.0 > 0.0)
    seconds = fixed_s + joined(p.sharpness, busy_s, stream_s)
    compute_s = flops / peak
    memory_s = compulsory / device.dram_bytes_per_s
    return PhysicalTime(np.maximum(seconds, compute_s), compute_s, memory_s, seconds * 0.0 + fixed_s)


def _fastest_s(
    device: Device, p: PrefillParameters, work: AttentionWork, peak: float, causal: bool, packs: bool
) -> Floats:
    best: Floats | None = None
    for rows in _TILES:
        busy_s = _tiling_s(device, p, work, peak, rows, causal, packs)
        best = busy_s if best is None else np.minimum(best, busy_s)
    assert best is not None
    return best


def _tiling_s(
    device: Device, p: PrefillParameters, work: AttentionWork, peak: float, rows: float, causal: bool, packs: bool
) -> Floats:
    group = work.heads / work.kv_heads if packs else 1.0
    tiles = work.batch * work.heads / group * np.ceil(work.new * group / rows)
    high = np.minimum(rows / group, work.new)
    whole = work.all_pairs / work.new
    mean = work.pairs / work.new + (0.5 * high if causal else 0.0) + np.where(work.windowed, p.window_edge * high, 0.0)
    mean = np.minimum(mean, whole + 0.5 * high) if causal else mean
    mean = mean + p.skipped * np.maximum(whole - mean, 0.0)
    longest = work.keys if not causal else np.minimum(work.keys, mean * 2.0)
    sm_hz = device.sm_count * device.clock_hz
    lost = np.power(np.maximum(work.head_dim / 128.0, 1.0), p.wide)
    products = 2.0 * rows * work.both / (peak / sm_hz * p.tensor_share) * lost
    softmax = rows / (_EXPONENTIALS_PER_CLOCK * p.exp_share)
    ends = p.tile_clocks + rows * work.both * 2.0 / p.row_bytes_per_clock
    key_clocks = joined(p.overlap, products, softmax, p.step_clocks / _STEP_KEYS / p.slots)
    latency = joined(p.overlap, products, softmax, p.step_clocks / _STEP_KEYS)
    total = tiles * (mean * key_clocks + ends / p.slots) / device.sm_count
    chain = longest * latency + ends
    return (np.maximum(total, chain) + p.tail * np.minimum(total, chain)) / device.clock_hz
