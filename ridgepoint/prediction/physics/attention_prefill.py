"""Time of attention for many new tokens a sequence on a GPU: tiles of queries in waves over the SMs, each along its keys."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.attention_rates import (
    AttentionWork,
    exponentials_per_clock,
    joined,
    missing_share,
    odd_dim,
    power_of_two,
    summed,
    tensor_peak,
)
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.quantity import Array

__all__ = ["PrefillParameters", "prefill_time", "tiled_time"]

Floats = npt.NDArray[np.float64]


class PrefillParameters(Parameters, frozen=True, kw_only=True):
    """What prefill kernels of one class, format and software stack reach of the datasheet's rates."""

    launch_s: Annotated[float, within(5e-7, 1e-4, "s, of the smallest call: all kernels that the stack launches")] = (
        1e-5
    )
    tensor_share: Annotated[float, within(0.02, 1.0, "of the dense peak: what a tile's inner loop reaches")] = 0.7
    exp_share: Annotated[float, within(0.02, 1.0, "of the exponentials that an SM does: what a softmax reaches")] = 0.6
    overlap: Annotated[float, within(1.0, 8.0, "exponent joining products and softmax: 1 adds, 8 hides one")] = 2.0
    step_clocks: Annotated[float, within(10, 2e4, "clocks that 64 keys take a tile that has an SM for itself")] = 500
    tile_clocks: Annotated[float, within(50, 5e4, "clocks of a tile of queries before and after its keys")] = 4000
    row_bytes_per_clock: Annotated[
        float, within(2, 1e3, "bytes of queries and results that an SM moves in a clock")
    ] = 60
    key_bytes_per_clock: Annotated[float, within(2, 500, "bytes of keys and values that an SM takes in a clock")] = 50
    wide: Annotated[float, within(0.01, 3.0, "exponent of a head size beyond 128, in 128: what tiles lose to it")] = 0.1
    padded: Annotated[float, within(0.001, 1.0, "of the padding of a head to a power of two: what is multiplied")] = 0.1
    uneven: Annotated[
        float, within(1.0, 8.0, "work on a key where a head size is no multiple of 16, against others")
    ] = 1.05
    packed: Annotated[float, within(0.001, 1.0, "share of tiles whose rows are all query heads of a key head")] = 0.1
    packed_one: Annotated[float, within(0.001, 1.0, "the same, if more, where one token of a sequence is new")] = 0.3
    slots: Annotated[float, within(1.0, 8, "tiles that an SM works on at once")] = 1.2
    tail: Annotated[float, within(0.001, 1.0, "of the longest tile: what SMs without work wait at the end")] = 0.3
    dram_share: Annotated[float, within(0.5, 0.97, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.8
    resident: Annotated[float, within(0.02, 1.5, "of L2: what of it the previous call's tensors still hold")] = 0.3
    key_passes: Annotated[float, within(0.01, 40, "times that new keys and values pass DRAM beside the kernel")] = 0.3
    sequence_s: Annotated[float, within(1e-12, 1e-6, "s, of each sequence: its page table, its share of a launch")] = (
        1e-9
    )
    odd_dim_s: Annotated[float, within(1e-9, 3e-5, "s more of a head size that is no power of two")] = 1e-8
    skipped: Annotated[float, within(1e-3, 1.0, "work of a key before the window, against one in it")] = 0.01
    window_edge: Annotated[float, within(0.05, 8.0, "keys of a window's far edge that are masked, in tile rows")] = 0.5
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining SM and DRAM time: 1 adds, 8 takes the larger")] = 3.0


_STEP_KEYS = 64.0
_TILES = (16.0, 64.0, 128.0)
"""Query rows of a tile; more heights change held-out errors by less than their noise."""


def prefill_time(
    device: Device, p: PrefillParameters, dtype: str, batch: Array, new: Array, kv_len: Array, heads: Array,
    kv_heads: Array, head_dim: Array, value_dim: Array = 0.0, kv_bytes: Array = 2.0, window: Array = 0.0,
    causal: bool = True, shared: bool = False, warm: bool = False,
) -> PhysicalTime:  # fmt: skip
    """Time of one call in which each of `batch` sequences attends with `new` tokens to `kv_len` keys, cached and new.

    All broadcast. `dtype` multiplies; a cached element has `kv_bytes`; `value_dim` 0 is `head_dim`; `window` is how many
    keys a token sees, itself included, 0 all; `shared`: values are part of the keys (latent attention). `warm`: the call
    before was the same one, as in the loop of a benchmark, so that what fits in L2 comes from there.

    A tile of query rows walks the keys that any of them sees. Products run at a share of the tensor peak, softmax at a
    share of the special function units, beside or after each other (FlashAttention-3, arXiv 2407.08608, section 3).
    Tiles fill the SMs; where they are few, the longest counts. Query heads of one key head may share a tile (`packed`).
    Time grows with batch, new and kv_len. Raises NotSupported where the device does not multiply `dtype`.
    Ignored: clocks under a power limit, keys split over SMs, keys of one head read again by other tiles from DRAM.
    """
    work = AttentionWork.of(batch, new, kv_len, heads, kv_heads, head_dim, value_dim, kv_bytes, window, causal, shared)
    return tiled_time(device, p, dtype, (work,), warm)


def tiled_time(
    device: Device, p: PrefillParameters, dtype: str, works: Sequence[AttentionWork], warm: bool = False
) -> PhysicalTime:
    """The same for groups of sequences that one kernel works off together; a group of batch 0 takes no time."""
    peak = tensor_peak(device, dtype)
    compulsory = summed(w.query_bytes + w.kv_read_bytes for w in works)
    if warm:
        compulsory = compulsory * missing_share(compulsory / (device.l2_bytes * p.resident))
    beside = summed(w.kv_new_bytes for w in works)
    stream_s = (compulsory + p.key_passes * beside) / (device.stream_bytes_per_s * p.dram_share)
    packed = _packed_share(p, works)
    alone_s, packed_s = (_busy_s(device, p, works, peak, packs) for packs in (False, True))
    busy_s = (1.0 - packed) * alone_s + packed * packed_s
    sequences = summed(w.batch for w in works)
    fixed_s = p.launch_s + p.sequence_s * sequences + p.odd_dim_s * odd_dim(works[0].head_dim)
    compute_s = summed(w.flops for w in works) / peak
    seconds = np.maximum(fixed_s + joined(p.sharpness, busy_s, stream_s), compute_s)
    memory_s = compulsory / device.dram_bytes_per_s
    return PhysicalTime(seconds, compute_s, memory_s, seconds * 0.0 + fixed_s)


def _packed_share(p: PrefillParameters, works: Sequence[AttentionWork]) -> Floats:
    longest = np.asarray(1.0)
    for work in works:
        longest = np.maximum(longest, np.where(work.batch > 0.0, work.new, 1.0))
    return np.where(longest > 1.0, p.packed, max(p.packed, p.packed_one))


def _busy_s(device: Device, p: PrefillParameters, works: Sequence[AttentionWork], peak: float, packs: bool) -> Floats:
    """Seconds that the SMs take, `packs`: where a tile's rows are the queries of all heads of one key head."""
    total_s = chain_s = np.asarray(0.0)
    for work in works:
        total, chain = _fastest(
            device, p, work, peak, work.heads / work.kv_heads if packs else np.ones_like(work.heads)
        )
        total_s = total_s + total
        chain_s = np.maximum(chain_s, np.where(work.batch > 0.0, chain, 0.0))
    return _with_tail(p, total_s, chain_s)


def _with_tail(p: PrefillParameters, total_s: Floats, chain_s: Floats) -> Floats:
    return np.maximum(total_s, chain_s) + p.tail * np.minimum(total_s, chain_s)


def _fastest(
    device: Device, p: PrefillParameters, work: AttentionWork, peak: float, group: Floats
) -> tuple[Floats, Floats]:
    """Seconds of all SMs together, and of the longest tile: of the height with which a group alone is fastest."""
    best = _tiling(device, p, work, peak, group, _TILES[0])
    for rows in _TILES[1:]:
        found = _tiling(device, p, work, peak, group, rows)
        better = _with_tail(p, *found) < _with_tail(p, *best)
        best = np.where(better, found[0], best[0]), np.where(better, found[1], best[1])
    return best


def _tiling(
    device: Device, p: PrefillParameters, work: AttentionWork, peak: float, group: Floats, rows: float
) -> tuple[Floats, Floats]:
    """The same where a tile's rows are the queries of `group` heads."""
    queries = work.new * group
    tiles = work.batch * work.heads / group * np.ceil(queries / rows)
    mean, longest = work.walked(np.minimum(rows / group, work.new), p.window_edge, p.skipped)
    sm_hz = device.sm_count * device.clock_hz
    both = work.both * (1.0 + p.padded * (power_of_two(work.head_dim) / work.head_dim - 1.0))
    lost = np.power(np.maximum(work.head_dim / 128.0, 1.0), p.wide)
    products = 2.0 * rows * both * lost / (peak / sm_hz * p.tensor_share)
    softmax = rows / (exponentials_per_clock(device) * p.exp_share)
    key_clocks = joined(p.overlap, products, softmax, work.key_bytes / p.key_bytes_per_clock)
    key_clocks = key_clocks * np.where(work.head_dim % 16.0 > 0.0, p.uneven, 1.0)
    ends = p.tile_clocks + rows * work.both * 2.0 / p.row_bytes_per_clock
    total = tiles * (mean * key_clocks + ends / p.slots) / sm_hz
    chain = (longest * (key_clocks + p.step_clocks / _STEP_KEYS) + ends) / device.clock_hz
    return total, chain
