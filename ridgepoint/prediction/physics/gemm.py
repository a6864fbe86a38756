"""Time of a matrix product on a GPU: tiles in waves over the SMs, fed from L2 and DRAM, under a power limit."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.gemm_format import GemmFormat
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.quantity import Array

__all__ = ["COLD", "GemmParameters", "Loop", "gemm_time"]

Floats = npt.NDArray[np.float64]


class GemmParameters(Parameters):
    """What kernels of one class, format and software stack reach of the datasheet's rates."""

    tensor_share: Annotated[float, within(0.1, 1.0, "of the dense peak: what a tile's inner loop reaches")] = 0.9
    l2_bytes_per_clock: Annotated[float, within(4, 400, "bytes that L2 hands to an SM in a clock, all SMs asking")] = 60
    step_clocks: Annotated[float, within(20, 4000, "clocks of a step along k that nothing else bounds: latency")] = 300
    tile_clocks: Annotated[float, within(20, 2e4, "clocks before and after a tile's loop")] = 500
    store_bytes_per_clock: Annotated[float, within(1, 400, "bytes of a finished tile that an SM stores in a clock")] = (
        16
    )
    launch_s: Annotated[float, within(2e-7, 5e-4, "s, from one kernel to the next")] = 2e-6
    dram_share: Annotated[float, within(0.3, 1.0, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.85
    split_s: Annotated[float, within(1e-8, 2e-5, "s, of adding up the parts of a product split along k")] = 2e-6
    wave_steps: Annotated[float, within(0.01, 1.0, "1: a last wave counts whole; 0: work is spread evenly")] = 0.3
    resident: Annotated[float, within(0.02, 1.5, "of L2: what of it a loop's operands can stay in")] = 0.5
    joules_per_flop: Annotated[float, within(1e-14, 5e-12, "J per FLOP that count against the power limit")] = 4e-13
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining SM and DRAM time: 1 adds, 8 takes the larger")] = 3.0
    quantise_s: Annotated[float, within(1e-9, 5e-4, "s, of the kernels that quantise activations, once")] = 1e-9
    quantise_row_s: Annotated[float, within(1e-13, 1e-7, "s that they take for each row, as of an atomic maximum")] = (
        1e-13
    )
    quantise_bytes: Annotated[float, within(0.05, 60, "bytes they move for each activation, at DRAM bandwidth")] = 3
    unpack_per_clock: Annotated[float, within(1, 1e6, "packed weights that an SM unpacks in a clock")] = 1e6


@dataclass(frozen=True, slots=True)
class Loop:
    """How often a benchmark's loop comes back to the same operands: what of them L2 may still hold.

    `weights` and `acts` are how many copies the loop rotates through; weights 0: as many as just fill L2.
    """

    weights: float
    acts: float


COLD = Loop(np.inf, np.inf)
"""Every operand comes from DRAM, as weights do in a network, where other layers pass between two calls."""

_TILES = ((16, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 128))
"""Rows and columns of a thread block's tile; smaller and more sizes change held-out errors by less than their noise."""
_PARTS = (1, 0, 2, 4)
"""Ways to split along k; 0: into as many parts as fill the SMs once."""
_STEP_BYTES = 128.0
"""Bytes along k of one step of a tile: a swizzled line of shared memory, 64 elements of bf16."""
_CLIFF = 0.25
"""Share beyond the capacity at which nothing of a cycle is left: replacement is close to least recently used."""


def gemm_time(
    device: Device,
    p: GemmParameters,
    form: GemmFormat,
    m: Array,
    n: Array,
    k: Array,
    loop: Loop = COLD,
    batch: Array = 1.0,
) -> PhysicalTime:
    """Time of `batch` products y[m, n] = x[m, k] W[k, n] in one kernel (all broadcast), W stored as `form` says.

    The fastest of a few tile sizes, whole along k or split. A step of a tile's loop takes its arithmetic, its reads
    from L2 or a latency, whichever is longest; tiles fill the SMs in waves; DRAM streams each operand once. What the
    loop of a benchmark left in L2 is read from there. Time does not fall as m, n or k grows, but where `loop` fills L2.

    Ignored: misaligned dimensions, bank conflicts, clusters, operands read twice, a heuristic that misses the fastest
    tile. Tiles and waves: Osama et al. 2023 (Stream-K, arXiv 2301.03598, section 3).
    """
    m, n, k, batch = (np.maximum(np.asarray(x, dtype=np.float64), 1.0) for x in (m, n, k, batch))
    flops = 2.0 * batch * m * n * k
    weight, x, y = n * k * form.weight_bytes, m * k * form.act_bytes, m * n * form.out_bytes
    dram = _dram_bytes(p, device, loop, batch * weight, batch * x, batch * y)
    stream_s = dram / (device.dram_bytes_per_s * p.dram_share)
    busy_s = _fastest_tiling(device, p, form, m, n, k, batch)
    energy_s = flops * p.joules_per_flop / device.tdp_w
    q = p.sharpness
    joined_s = (busy_s**q + stream_s**q) ** (1.0 / q)
    fixed_s = p.launch_s + (_quantise_s(device, p, batch * m, k) if form.quantises else 0.0)
    compute_s = np.maximum(flops / form.peak(device), energy_s)
    seconds = fixed_s + np.maximum(np.maximum(joined_s, energy_s), compute_s)
    return PhysicalTime(seconds, compute_s, dram / device.dram_bytes_per_s, seconds * 0.0 + fixed_s)


def _quantise_s(device: Device, p: GemmParameters, m: Floats, k: Floats) -> Floats:
    """Kernels of their own: activations in, quantised ones and scales out."""
    return p.quantise_s + p.quantise_row_s * m + p.quantise_bytes * m * k / (device.dram_bytes_per_s * p.dram_share)


def _dram_bytes(p: GemmParameters, device: Device, loop: Loop, weight: Floats, x: Floats, y: Floats) -> Floats:
    """Bytes that L2 does not hold from the calls before."""
    capacity = device.l2_bytes * p.resident
    copies = np.ceil(device.l2_bytes / weight) if loop.weights == 0.0 else loop.weights
    acts = x * loop.acts + y
    weight_missing = _missing((weight * copies + acts) / capacity)
    acts_missing = _missing((weight * np.minimum(copies, loop.acts) + acts) / capacity)
    return weight * weight_missing + (x + y) * acts_missing


def _missing(fill: Floats) -> Floats:
    return np.clip((fill - 1.0) / _CLIFF, 0.01, 1.0)


def _fastest_tiling(
    device: Device, p: GemmParameters, form: GemmFormat, m: Floats, n: Floats, k: Floats, batch: Floats
) -> Floats:
    best: Floats | None = None
    for bm, bn in _TILES:
        tiles = batch * np.ceil(m / bm) * np.ceil(n / bn)
        step_s, tile_s = _tile_seconds(device, p, form, bm, bn)
        steps = np.ceil(k * form.act_bytes / _STEP_BYTES)
        for split in _PARTS:
            parts = np.maximum(np.floor(device.sm_count / tiles), 1.0) if split == 0 else float(split)
            sm_s = _waves(device, p, tiles * parts) * (np.ceil(steps / parts) * step_s + tile_s)
            seconds = sm_s + (parts > 1.0) * _sum_parts_s(device, p, tiles, parts, split, bm * bn)
            best = seconds if best is None else np.minimum(best, seconds)
    assert best is not None
    return best


def _tile_seconds(device: Device, p: GemmParameters, form: GemmFormat, bm: int, bn: int) -> tuple[float, float]:
    """A step along k, and what a tile takes beside its steps."""
    step_k = _STEP_BYTES / form.act_bytes
    arithmetic = 2.0 * bm * bn * step_k / (form.peak(device) / device.sm_count * p.tensor_share)
    feed = (bm * form.act_bytes + bn * form.weight_bytes) * step_k / p.l2_bytes_per_clock
    unpack = bn * step_k / p.unpack_per_clock if form.unpacks else 0.0
    step_s = max(arithmetic, max(feed, unpack, p.step_clocks) / device.clock_hz)
    return step_s, (p.tile_clocks + bm * bn * form.out_bytes / p.store_bytes_per_clock) / device.clock_hz


def _waves(device: Device, p: GemmParameters, blocks: Floats) -> Floats:
    """How often the busiest SM computes a tile; the last wave counts by `wave_steps`."""
    waves = blocks / device.sm_count
    return np.maximum((1.0 - p.wave_steps) * waves + p.wave_steps * np.ceil(waves), 1.0)


def _sum_parts_s(
    device: Device, p: GemmParameters, tiles: Floats, parts: Array, split: int, tile_elements: int
) -> Floats:
    """Partial sums written and read in fp32 through L2; of a full wave where the parts fill the SMs."""
    blocks = tiles * 0.0 + device.sm_count if split == 0 else tiles * parts
    return p.split_s + blocks * tile_elements * 8.0 / (p.l2_bytes_per_clock * device.clock_hz * device.sm_count)
