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


class GemmParameters(Parameters, frozen=True, kw_only=True):
    """What kernels of one class, format and software stack reach of the datasheet's rates."""

    tensor_share: Annotated[float, within(0.1, 1.0, "of the dense peak: what a tile's inner loop reaches")] = 0.9
    l2_bytes_per_clock: Annotated[float, within(4, 128, "bytes that L2 hands to an SM in a clock, all SMs asking")] = 64
    step_clocks: Annotated[float, within(20, 4000, "clocks of a step along k that nothing else bounds: latency")] = 200
    step_sharpness: Annotated[float, within(2, 8, "exponent joining a step's arithmetic, reads, latency; 1 adds")] = 4
    tile_clocks: Annotated[float, within(20, 2000, "clocks before and after a tile's loop")] = 200
    store_bytes_per_clock: Annotated[float, within(1, 400, "bytes of a finished tile that an SM stores in a clock")] = (
        16
    )
    launch_s: Annotated[float, within(2e-7, 5e-4, "s, from one kernel to the next")] = 2.3e-6
    dram_share: Annotated[float, within(0.3, 1.0, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.85
    write_cost: Annotated[float, within(0.5, 4.0, "what a byte of result costs DRAM, of what a byte read costs")] = 1.2
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining SM and DRAM time: 1 adds, 8 takes the larger")] = 2.5
    split_s: Annotated[
        float, within(1e-8, 1e-2, "s, of adding up parts of a product split along k; large: no split")
    ] = 3e-6
    wave_steps: Annotated[float, within(0.01, 1.0, "1: a last wave counts whole; 0: work is spread evenly")] = 0.3
    resident: Annotated[float, within(0.3, 1.1, "of L2: what of it a loop's operands can stay in")] = 0.95
    joules_per_flop: Annotated[float, within(1e-14, 5e-12, "J per FLOP that count against the power limit")] = 7e-13
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

_PARTS = np.array([1.0, 2.0, 4.0])
"""Ways to split along k; besides, into as many parts as fill the SMs once."""
_CHUNK = 2048
"""Shapes looked at together: what is computed for each tile and split of them stays in the processor's cache."""
_STEP_BYTES = 128.0
"""Bytes along k of one step of a tile: a swizzled line of shared memory, 64 elements of bf16."""
_POWER_SHARPNESS = 4.0
"""Exponent joining the time that the power limit alone allows: clocks give way before it is reached. Fitted freely, it and
`tensor_share` stand for each other on a card whose limit always binds, and then carry to no other card."""
_CLIFF = 0.1
"""Share beyond the capacity at which nothing of a cycle is left: replacement is close to least recently used."""
_ALWAYS_MISSING = 0.01
"""Share of resident operands that still comes from DRAM."""


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

    The fastest of the format's tiles, whole along k or split. A step of a tile's loop takes its arithmetic, its reads from
    L2 and a latency, joined by an exponent; tiles fill the SMs in waves; DRAM streams each operand once. What the loop
    of a benchmark left in L2 is read from there. Time never falls as m, n, k or batch grows, but where `loop` fills L2
    (weights 0); it rises in steps of the smallest tile and of 128 bytes of k, and stays where DRAM or SMs have room.

    Ignored: misaligned dimensions, bank conflicts, clusters, operands read twice, a heuristic that misses the fastest
    tile. Tiles and waves: Osama et al. 2023 (Stream-K, arXiv 2301.03598, section 3).
    """
    m, n, k, batch = (np.maximum(np.asarray(x, dtype=np.float64), 1.0) for x in (m, n, k, batch))
    flops = 2.0 * batch * m * n * k * form.products
    read, written = _dram_bytes(p, device, loop, form, (m, n, k, batch))
    memory_s = (read + written) / device.dram_bytes_per_s
    stream_s = (read + written * p.write_cost) / (device.stream_bytes_per_s * p.dram_share)
    energy_s = flops * (p.joules_per_flop / device.tdp_w)
    compute_s = np.maximum(flops / form.peak(device), energy_s)
    joined_s = _joined(_fastest_tiling(device, p, form, m, n, k, batch), stream_s, p.sharpness)
    busy_s = np.maximum(_joined(joined_s, energy_s, _POWER_SHARPNESS), np.maximum(compute_s, memory_s))
    fixed_s = p.launch_s + (_quantise_s(device, p, batch * m, k) if form.quantises else 0.0)
    return PhysicalTime(fixed_s + busy_s, compute_s, memory_s, busy_s * 0.0 + fixed_s)


def _joined(a: Floats, b: Floats, exponent: float) -> Floats:
    """A smooth maximum that is the sum for 1."""
    return np.power(np.power(a, exponent) + np.power(b, exponent), 1.0 / exponent)


def _quantise_s(device: Device, p: GemmParameters, m: Floats, k: Floats) -> Floats:
    """Kernels of their own: activations in, quantised ones and scales out."""
    return p.quantise_s + p.quantise_row_s * m + p.quantise_bytes * m * k / (device.stream_bytes_per_s * p.dram_share)


def _dram_bytes(
    p: GemmParameters, device: Device, loop: Loop, form: GemmFormat, shape: tuple[Floats, Floats, Floats, Floats]
) -> tuple[Floats, Floats]:
    """Bytes read and written that L2 does not hold from the calls before."""
    m, n, k, batch = shape
    weight, x, y = (batch * b for b in (n * k * form.weight_bytes, m * k * form.act_bytes, m * n * form.out_bytes))
    capacity = device.l2_bytes * p.resident
    copies = np.ceil(device.l2_bytes / weight) if loop.weights == 0.0 else loop.weights
    acts = x * loop.acts + y
    weight_missing = _missing((weight * copies + acts) / capacity)
    acts_missing = _missing((weight * np.minimum(copies, loop.acts) + acts) / capacity)
    return weight * weight_missing + x * acts_missing, y * acts_missing


def _missing(fill: Floats) -> Floats:
    return np.clip((fill - 1.0) / _CLIFF, _ALWAYS_MISSING, 1.0)


def _fastest_tiling(
    device: Device, p: GemmParameters, form: GemmFormat, m: Floats, n: Floats, k: Floats, batch: Floats
) -> Floats:
    """Time of the busiest SM, by the tile and the split that make it shortest."""
    shapes = np.broadcast_arrays(m, n, k, batch)
    flat = [np.ravel(x) for x in shapes]
    best = np.empty(shapes[0].size)
    rows, columns = np.array(form.tiles, dtype=np.float64).T[:, :, None, None]
    step_s, tile_s = _tile_seconds(device, p, form, rows, columns)
    for start in range(0, best.size, _CHUNK):
        stop = start + _CHUNK
        m, n, k, batch = (x[start:stop] for x in flat)
        tiles = batch * np.ceil(m / rows) * np.ceil(n / columns)
        parts = _parts(device, tiles)
        steps = np.ceil(np.ceil(k * (form.act_bytes / _STEP_BYTES)) / parts)
        seconds = _waves(p, tiles * parts / device.sm_count) * (steps * step_s + tile_s)
        best[start:stop] = (seconds + _sum_parts_s(device, p, tiles, parts, rows * columns)).min(axis=(0, 1))
    return best.reshape(shapes[0].shape)


def _parts(device: Device, tiles: Floats) -> Floats:
    """Into how many parts k is split, by tile, way and shape; the last way fills the SMs once."""
    parts = np.empty((tiles.shape[0], len(_PARTS) + 1, tiles.shape[2]))
    parts[:, :-1] = _PARTS[:, None]
    parts[:, -1:] = np.maximum(np.floor(device.sm_count / tiles), 1.0)
    return parts


def _sum_parts_s(device: Device, p: GemmParameters, tiles: Floats, parts: Floats, elements: Floats) -> Floats:
    """Partial sums written and read in fp32 through L2; of a full wave where the parts fill the SMs."""
    blocks = tiles * parts
    blocks[:, -1] = device.sm_count
    sum_s = elements * 8.0 / (p.l2_bytes_per_clock * device.clock_hz * device.sm_count)
    return np.where(parts > 1.0, p.split_s + blocks * sum_s, 0.0)


def _tile_seconds(
    device: Device, p: GemmParameters, form: GemmFormat, rows: Floats, columns: Floats
) -> tuple[Floats, Floats]:
    """Of each tile: a step along k, and what it takes beside its steps."""
    step_k = _STEP_BYTES / form.act_bytes
    products = 2.0 * step_k * form.products
    arithmetic_s = rows * columns * (products / (form.peak(device) / device.sm_count * p.tensor_share))
    feed = (rows * form.act_bytes + columns * form.weight_bytes) * (step_k / p.l2_bytes_per_clock)
    bounds = [arithmetic_s, feed / device.clock_hz, np.full_like(feed, p.step_clocks / device.clock_hz)]
    if form.unpacks:
        bounds.append(columns * (step_k / p.unpack_per_clock / device.clock_hz))
    step_s = np.power(np.sum([np.power(b, p.step_sharpness) for b in bounds], axis=0), 1.0 / p.step_sharpness)
    return step_s, (p.tile_clocks + rows * columns * (form.out_bytes / p.store_bytes_per_clock)) / device.clock_hz


def _waves(p: GemmParameters, waves: Floats) -> Floats:
    """How often the busiest SM computes a tile; the last wave counts by `wave_steps`."""
    return np.maximum((1.0 - p.wave_steps) * waves + p.wave_steps * np.ceil(waves), 1.0)
