"""Time of fused experts on a GPU: two grouped products over the experts that a batch touches, and what runs beside."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.gemm_format import GemmFormat
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.prediction.physics.routing import RankLoad
from ridgepoint.quantity import Array

__all__ = ["MOE_FORMATS", "MoeParameters", "moe_time"]

Floats = npt.NDArray[np.float64]


class MoeParameters(Parameters, frozen=True, kw_only=True):
    """What fused-expert kernels of one class, format and software stack reach of the datasheet's rates."""

    fixed_s: Annotated[float, within(1e-7, 3e-4, "s, of routing, sorting and launches, whatever the batch")] = 2e-5
    expert_s: Annotated[float, within(1e-9, 5e-6, "s, of each expert touched, beside its weights")] = 5e-8
    dram_share: Annotated[float, within(0.5, 0.97, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.85
    resident: Annotated[float, within(0.001, 1.2, "of L2: what of it the previous call's operands still hold")] = 0.3
    tensor_share: Annotated[float, within(0.2, 1.0, "of the dense peak: what the inner loop of a tile reaches")] = 0.7
    l2_bytes_per_clock: Annotated[float, within(4, 400, "bytes that L2 hands to one SM in a clock, all SMs asking")] = (
        40
    )
    step_clocks: Annotated[float, within(20, 8000, "clocks of one step along k where nothing else bounds it")] = 400
    tile_clocks: Annotated[float, within(20, 4e4, "clocks before and after a tile's loop")] = 2000
    wave_steps: Annotated[float, within(0.01, 1.0, "1: a last wave counts whole; 0: work is spread evenly")] = 0.5
    row_passes: Annotated[float, within(0.01, 20, "times that a rank's rows pass DRAM beside the products")] = 1.0
    token_passes: Annotated[float, within(0.01, 20, "times that tokens x top-k rows pass DRAM, at any rank")] = 0.5
    masked: Annotated[float, within(0.001, 1.0, "share of the work on pairs of other ranks that is done here too")] = (
        0.05
    )
    nominal: Annotated[float, within(0.01, 1.0, "1: tiles have the rows that all pairs would fill; 0: the fastest")] = (
        0.3
    )
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining the bounds: 1 adds them, 8 takes the largest")] = 2.0


MOE_FORMATS: Mapping[str, GemmFormat] = {
    form.name: form
    for form in (
        GemmFormat("fp16", 2, 2, 2, ("fp16", "bf16")),
        GemmFormat("bf16", 2, 2, 2, ("bf16", "fp16")),
        GemmFormat("fp8", 1, 1, 2, ("fp8",)),
        GemmFormat("fp8_block", 1.0 + 4.0 / 16384, 1.0 + 4.0 / 128, 2, ("fp8",)),
        GemmFormat("nvfp4", 0.5 + 1.0 / 16, 0.5 + 1.0 / 16, 2, ("fp4",)),
        GemmFormat("int8_wo", 1, 2, 2, ("bf16", "fp16")),
        GemmFormat("int4_wo", 0.5 + 2.0 / 128, 2, 2, ("bf16", "fp16")),
        GemmFormat("w4afp8", 0.5 + 2.0 / 128, 1, 2, ("fp8",)),
        GemmFormat("w4a16_mxfp4", 0.5 + 1.0 / 32, 2, 2, ("bf16", "fp16")),
        GemmFormat("w4a8_mxfp4_mxfp8", 0.5 + 1.0 / 32, 1.0 + 1.0 / 32, 2, ("fp8",)),
    )
}
"""By name; bytes per element with their scales: fp8_block one fp32 of 128 x 128 weights and of 128 activations, nvfp4
one byte of 16, mxfp one of 32, int4 one fp16 of 128."""

_ROWS, _COLUMNS = (16, 32, 64, 128), (64, 128, 256)
"""Of a thread block's tile."""
_STEP_BYTES = 128.0
"""Bytes along k of one step of a tile: one swizzled line of shared memory."""
_STORE_BYTES_PER_CLOCK = 32.0
"""That an SM stores of a finished tile."""
_QUEUES = 1.0
"""SMs with as many loads as half fill the DRAM's queues, over all SMs; fitted, it went anywhere at no gain."""
_COLD = 0.02
"""Share of the operands that comes from DRAM even where a warm L2 holds them all."""


def moe_time(
    device: Device, p: MoeParameters, form: GemmFormat, load: RankLoad,
    tokens: Array, topk: Array, hidden: Array, inter: Array, gated: Array, warm: bool = False,
) -> PhysicalTime:  # fmt: skip
    """Time of one layer's experts on the rank that `load` describes; all arrays broadcast.

    `tokens` choose `topk` experts each; an expert multiplies hidden -> (2 if `gated` else 1) x inter, activates, and
    multiplies inter -> hidden (inter: what tensor parallelism leaves to this rank). Each product runs tiles in waves
    over the SMs, beside the stream of the touched experts' weights; `load.blocks` says how many tiles the experts' rows
    round up to. All experts share one tile. Its rows are the fastest, or those that an expert of this rank would fill
    if every pair came here, which is how most kernels choose it: a mean, weighed by `nominal`, in logarithms. Sorting,
    quantising, activating, permuting and adding up pass memory as often as `row_passes` and `token_passes` say.

    `warm`: the same call just ran, as in a benchmark's loop, so that L2 still holds what of its operands fits. Else
    every weight comes from DRAM. Time does not fall as tokens, top-k, hidden or inter grow while `load` is even.
    Raises NotSupported where the device has no unit for the format. Ignored: shared experts, the router's own product,
    all-to-all between ranks, weights read twice, a power limit apart from `tensor_share`, an autotuner's misses.
    Grouped products over sorted tokens: Gale et al. 2022 (MegaBlocks, arXiv 2211.15841, section 5).
    """
    t, k, h, i, both = (
        np.asarray(x, dtype=np.float64) for x in (tokens, topk, hidden, inter, np.where(gated, 2.0, 1.0))
    )
    other = np.maximum(load.tokens * k - load.pairs, 0.0) * p.masked
    rows = load.pairs + other
    weights = load.touched * h * i * (1.0 + both) * form.weight_bytes
    passed = rows * (h + i) * form.out_bytes
    held = weights + passed + t * h * form.out_bytes
    missing = np.clip(held / (device.l2_bytes * p.resident) - 1.0, _COLD, 1.0) if warm else np.ones_like(held)
    nominal = np.maximum(t, 1.0) * k / load.experts
    up = _product(device, p, form, load, nominal, other, rows, both * i, h, missing)
    down = _product(device, p, form, load, nominal, other, rows, h, i, missing)
    stream = device.stream_bytes_per_s * p.dram_share
    beside = (p.row_passes * passed + p.token_passes * t * k * h * form.out_bytes) / stream
    fixed = p.fixed_s + p.expert_s * load.touched
    seconds = fixed + up + down + beside
    compute = 2.0 * load.pairs * h * i * (1.0 + both) / form.peak(device)
    memory = weights * missing / device.dram_bytes_per_s
    return PhysicalTime(seconds, compute, memory, fixed + np.zeros_like(seconds))


def _product(
    device: Device, p: MoeParameters, form: GemmFormat, load: RankLoad,
    nominal: Floats, other: Floats, rows: Floats, n: Floats, k: Floats, missing: Floats,
) -> Floats:  # fmt: skip
    """Seconds of one grouped product, rows of all touched experts x k -> n."""
    stream = device.stream_bytes_per_s * p.dram_share / missing
    weights = load.touched * n * k * form.weight_bytes / (stream * (1.0 + _QUEUES))
    others = rows * (k * form.act_bytes + n * form.out_bytes) / stream
    usual: Floats | None = None
    best: Floats | None = None
    for bm in reversed(_ROWS):
        blocks = load.blocks(bm) + other / bm
        each = []
        for bn in _COLUMNS:
            busy = np.minimum(load.touched * n / bn / device.sm_count, 1.0)
            dram = weights * (busy + _QUEUES) / busy + others
            sm = _sm_seconds(device, p, form, bm, bn, blocks, n, k)
            each.append(np.power(sm, p.sharpness) + np.power(dram, p.sharpness))
        fastest = np.minimum(np.minimum(each[0], each[1]), each[2])
        usual = fastest if usual is None else np.where(nominal <= bm, fastest, usual)
        best = fastest if best is None else np.minimum(best, fastest)
    assert usual is not None and best is not None
    return np.asarray(np.power(best, (1.0 - p.nominal) / p.sharpness) * np.power(usual, p.nominal / p.sharpness))


def _sm_seconds(
    device: Device, p: MoeParameters, form: GemmFormat, bm: int, bn: int, blocks: Floats, n: Floats, k: Floats
) -> Floats:
    """Seconds of the busiest SM with tiles of bm rows and bn columns, were DRAM no bound."""
    clock, sms = device.clock_hz, float(device.sm_count)
    step_k = _STEP_BYTES / (2.0 if form.act_bytes >= 2.0 else 1.0)
    rate = form.peak(device) / sms * p.tensor_share
    feed = (bm * form.act_bytes + bn * form.weight_bytes) * step_k / (p.l2_bytes_per_clock * clock)
    step = max(2.0 * bm * bn * step_k / rate + feed, p.step_clocks / clock)
    ends = (p.tile_clocks + bm * bn * form.out_bytes / _STORE_BYTES_PER_CLOCK) / clock
    waves = np.maximum(blocks * np.ceil(n / bn), 1.0) / sms
    full = np.maximum((1.0 - p.wave_steps) * waves + p.wave_steps * np.ceil(waves), 1.0)
    return np.asarray(full * (np.ceil(k / step_k) * step + ends))
