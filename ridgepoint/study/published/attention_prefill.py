"""Published times of prefill attention: many new tokens for each sequence of a batch, causal."""

import numpy as np

from ridgepoint.prediction.physics.attention_prefill import PrefillParameters, prefill_time
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.study.published.attention_decode import ATTENTION_DECODE, kv_bytes
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Mask, Table, Texts

__all__ = ["ATTENTION_PREFILL"]


def _seconds(device: Device, p: PrefillParameters, dtype: str, table: Table) -> PhysicalTime:
    batch, new, keys, heads, kv_heads, dim = (
        table.number(x) for x in ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim")
    )
    return prefill_time(
        device, p, dtype, batch, new, keys, heads, kv_heads, dim, kv_bytes=kv_bytes(table, dtype),
        window=table.number("window", 0.0), warm=True,
    )  # fmt: skip


def _usable(table: Table) -> Mask:
    return (table.text("suspect") != "1") & (table.number("latency_us") > 0)


def _regime(table: Table) -> Texts:
    tokens = table.number("batch") * table.number("q_len") * table.number("q_heads")
    return np.where(tokens <= 2**14, "<=16k tokens x heads", ">16k tokens x heads").astype(np.str_)


def _shape(table: Table) -> Texts:
    parts = [table.text(x) for x in ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "window")]
    return np.array(["x".join(row) for row in zip(*parts, strict=True)], dtype=np.str_)


def _fixed(_: str) -> dict[str, float]:
    """All head sizes of these tables are multiples of 16."""
    return {"uneven": 1.0}


ATTENTION_PREFILL = Kind(
    name="attention_prefill", columns=("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "latency_us"),
    model=PrefillParameters, seconds=_seconds, usable=_usable, regime=_regime, shape=_shape,
    variant=ATTENTION_DECODE.variant, fixed=_fixed,
)  # fmt: skip
