"""Published times of bidirectional attention, as of vision and audio encoders: every token sees all of its sequence."""

import numpy as np

from ridgepoint.prediction.physics.attention_prefill import PrefillParameters, prefill_time
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Mask, Table, Texts

__all__ = ["ATTENTION_ENCODER"]


def _seconds(device: Device, p: PrefillParameters, dtype: str, table: Table) -> PhysicalTime:
    batch, tokens, heads, dim = (table.number(x) for x in ("batch", "q_len", "q_heads", "head_dim"))
    return prefill_time(device, p, dtype, batch, tokens, tokens, heads, heads, dim, causal=False, warm=True)


def _usable(table: Table) -> Mask:
    return (table.text("suspect") != "1") & (table.number("latency_us") > 0)


def _regime(table: Table) -> Texts:
    rows = table.number("batch") * table.number("q_len") * table.number("q_heads")
    return np.where(rows <= 2**14, "<=16k tokens x heads", ">16k tokens x heads").astype(np.str_)


def _shape(table: Table) -> Texts:
    parts = [table.text(x) for x in ("batch", "q_len", "q_heads", "head_dim")]
    return np.array(["x".join(row) for row in zip(*parts, strict=True)], dtype=np.str_)


def _fixed(_: str) -> dict[str, float]:
    """What nothing in these tables tells: every head has its own keys, all fit a tile's width, nothing is windowed."""
    start = PrefillParameters()
    return {x: getattr(start, x) for x in ("wide", "packed", "packed_one", "skipped", "window_edge")}


ATTENTION_ENCODER = Kind(
    name="attention_encoder", columns=("batch", "q_len", "q_heads", "head_dim", "latency_us"), model=PrefillParameters,
    seconds=_seconds, usable=_usable, regime=_regime, shape=_shape, variant=lambda table: table.text("kernel"), fixed=_fixed,
)  # fmt: skip
