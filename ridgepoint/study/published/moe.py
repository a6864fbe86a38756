"""Published times of fused mixture-of-experts layers: their columns, and what the protocols behind them time."""

import numpy as np

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.moe import MOE_FORMATS, MoeParameters, moe_time
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters
from ridgepoint.prediction.physics.routing import rank_load
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Mask, Table, Texts

__all__ = ["MOE"]

_COLUMNS = (
    "tokens", "hidden", "inter", "topk", "experts", "moe_tp_size", "moe_ep_size", "distribution", "latency_us",
)  # fmt: skip
_FORMATS = {"bfloat16": "bf16", "float16": "fp16", "mxfp4": "w4a16_mxfp4"}
_SIZES, _PARALLEL = _COLUMNS[:7], _COLUMNS[5:7]
_NOT_GATED = "nongated"
"""In the name of a kernel that times a layer without a gate."""
_ALWAYS_GATED = ("vllm_fused_moe", "sglang_fused_moe_triton")
"""Kernels that time a gated layer for every model; the others leave the gate out where the model has none."""
_UNGATED_TOPK = 22
"""Of the family without a gate (squared ReLU), alone in choosing so many experts."""
_UNPACKED = "sglang_fused_moe_triton"
"""The kernel that turns mxfp4 weights to bf16 when it loads them."""
_PACKED = ("vllm", "0.14.0")
"""The protocol that gives a small batch's pairs to the measured rank alone: 8 experts' weights are read at one token."""


def _exponents(table: Table) -> Floats:
    """Exponent of each row's power law, 0 where all experts get the same; NaN where it is none of these."""
    out = np.full(len(table), np.nan)
    for i, text in enumerate(table.text("distribution", "balanced")):
        if text in ("balanced", "uniform", ""):
            out[i] = 0.0
        elif text.startswith("power_law_"):
            try:
                exponent = float(text.removeprefix("power_law_"))
            except ValueError:
                continue
            out[i] = exponent if exponent > 0.0 else np.nan
    return out


def _form(dtype: str) -> str:
    return _FORMATS.get(dtype, dtype)


def _seconds(device: Device, parameters: Parameters, dtype: str, table: Table) -> PhysicalTime:
    assert isinstance(parameters, MoeParameters)
    kernel = table.text("kernel")
    name = _form(dtype)
    packed = (table.text("framework") == _PACKED[0]) & (table.text("version") == _PACKED[1])
    unpacked = (kernel == _UNPACKED) & (name == "w4a16_mxfp4")
    parts: dict[str, Floats] = {x: np.empty(len(table)) for x in ("seconds", "compute_s", "memory_s", "fixed_s")}
    for is_packed in (False, True):
        for is_unpacked in (False, True):
            mask = (packed == is_packed) & (unpacked == is_unpacked)
            if not mask.any():
                continue
            rows = table.take(mask)
            form = MOE_FORMATS["bf16" if is_unpacked else name]
            time = _of_one_format(device, parameters, form.name, rows, is_packed)
            for part, values in parts.items():
                values[mask] = getattr(time, part)
    return PhysicalTime(**parts)


def _of_one_format(device: Device, p: MoeParameters, form: str, table: Table, packed: bool) -> PhysicalTime:
    tokens, topk, experts = (table.number(x) for x in ("tokens", "topk", "experts"))
    tp, ep = table.number("moe_tp_size", 1.0), table.number("moe_ep_size", 1.0)
    kernel = table.text("kernel")
    ungated = (topk == _UNGATED_TOPK) | (np.char.find(kernel, _NOT_GATED) >= 0)
    gated = ~ungated | np.isin(kernel, _ALWAYS_GATED)
    load = rank_load(tokens, topk, experts, ep, _exponents(table), packed)
    inter = table.number("inter") / tp
    return moe_time(device, p, MOE_FORMATS[form], load, tokens, topk, table.number("hidden"), inter, gated, warm=True)


def _usable(table: Table) -> Mask:
    known = np.isin([_form(str(dtype)) for dtype in table.text("dtype")], list(MOE_FORMATS))
    sizes = [table.number(name, 1.0 if name in _PARALLEL else np.nan) for name in _SIZES]
    sized = np.logical_and.reduce([size > 0 for size in sizes])
    timed = table.number("latency_us") > 0
    return np.isfinite(_exponents(table)) & known & sized & timed & (table.text("suspect", "0") != "1")


def _regime(table: Table) -> Texts:
    return np.where(table.number("tokens") <= 64, "tokens<=64", "tokens>64")


def _shape(table: Table) -> Texts:
    cells = [table.text(x) for x in ("hidden", "inter", "topk", "experts")]
    return np.array(["x".join(row) for row in zip(*cells, strict=True)], dtype=np.str_)


MOE = Kind(
    name="moe", columns=_COLUMNS, model=MoeParameters, seconds=_seconds, usable=_usable, regime=_regime, shape=_shape,
    variant=lambda table: table.text("kernel"),
)  # fmt: skip
