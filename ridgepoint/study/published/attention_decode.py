"""Published times of decode attention: one new token for each sequence of a batch."""

import numpy as np

from ridgepoint.prediction.physics.attention_decode import DecodeParameters, decode_time
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.spelling import our_dtype
from ridgepoint.study.published.table import Mask, Table, Texts

__all__ = ["ATTENTION_DECODE", "kv_bytes"]

_IMPOSSIBLE = (("a100_sxm", "trtllm", "1.0.0"), ("b200_sxm", "trtllm", "1.3.0rc15"))
"""Tables that are faster than memory allows."""
_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp32": 4.0}


def kv_bytes(table: Table, dtype: str) -> np.ndarray:
    return np.array([_BYTES.get(our_dtype(str(x)) if x else dtype, 2.0) for x in table.text("kv_dtype")])


def _seconds(device: Device, p: DecodeParameters, dtype: str, table: Table) -> PhysicalTime:
    batch, keys, heads, kv_heads, dim = (
        table.number(x) for x in ("batch", "kv_len", "q_heads", "kv_heads", "head_dim")
    )
    return decode_time(
        device, p, dtype, batch, keys, heads, kv_heads, dim, kv_bytes=kv_bytes(table, dtype),
        window=table.number("window", 0.0), warm=True,
    )  # fmt: skip


def _usable(table: Table) -> Mask:
    good = (table.text("suspect") != "1") & (table.number("latency_us") > 0)
    for gpu, framework, version in _IMPOSSIBLE:
        good &= ~(
            (table.text("gpu") == gpu) & (table.text("framework") == framework) & (table.text("version") == version)
        )
    return good


def _regime(table: Table) -> Texts:
    keys = np.minimum(
        table.number("kv_len"), np.where(table.number("window", 0) > 0, table.number("window", 0), np.inf)
    )
    size = table.number("batch") * keys * table.number("kv_heads") * table.number("head_dim")
    return np.where(size <= 2**22, "<=4M keys x dim", ">4M keys x dim").astype(np.str_)


def _shape(table: Table) -> Texts:
    parts = [table.text(x) for x in ("batch", "kv_len", "q_heads", "kv_heads", "head_dim", "window")]
    return np.array(["x".join(row) for row in zip(*parts, strict=True)], dtype=np.str_)


def _variant(table: Table) -> Texts:
    kv = np.array(["fp8kv" if our_dtype(str(x)) == "fp8" else "" for x in table.text("kv_dtype")])
    return np.array(["/".join(filter(None, row)) for row in zip(table.text("kernel"), kv, strict=True)], dtype=np.str_)


ATTENTION_DECODE = Kind(
    name="attention_decode", columns=("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "latency_us"),
    model=DecodeParameters, seconds=_seconds, usable=_usable, regime=_regime, shape=_shape, variant=_variant,
)  # fmt: skip
