"""Published times of mixed attention: one prefill chunk together with sequences that decode, in one call."""

from typing import Annotated

import msgspec
import numpy as np

from ridgepoint.prediction.physics.attention_decode import DecodeParameters
from ridgepoint.prediction.physics.attention_mixed import mixed_time
from ridgepoint.prediction.physics.attention_prefill import PrefillParameters
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import within
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Mask, Table, Texts
from ridgepoint.workload import Group

__all__ = ["ATTENTION_CHUNKED", "ChunkedParameters"]


class ChunkedParameters(PrefillParameters, frozen=True, kw_only=True):
    """The prefill kernel's parameters, and what a call without a chunk has of its own."""

    decode_launch_s: Annotated[float, within(5e-7, 1e-4, "s, of the smallest call that only decodes")] = 8e-6
    decode_block_clocks: Annotated[float, within(50, 5e4, "clocks of a decoding block before and after its keys")] = (
        4000
    )
    decode_step_clocks: Annotated[float, within(5, 2e4, "clocks of a decoding block for each 64 keys")] = 200
    split_s: Annotated[float, within(1e-9, 5e-5, "s, of adding up the parts of a sequence that blocks share")] = 2e-6

    def decode(self) -> DecodeParameters:
        """As the decode kernel takes them; what this table cannot tell stays where a fit starts."""
        return DecodeParameters(
            launch_s=self.decode_launch_s, dram_share=self.dram_share, resident=self.resident,
            sm_bytes_per_clock=min(self.key_bytes_per_clock, 200.0), step_clocks=self.decode_step_clocks,
            block_clocks=self.decode_block_clocks, split_s=self.split_s, sharpness=self.sharpness,
        )  # fmt: skip


def _seconds(device: Device, p: ChunkedParameters, dtype: str, table: Table) -> PhysicalTime:
    chunk, before, decodes, keys = (table.number(x) for x in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
    groups = (
        Group((chunk > 0).astype(np.float64), np.maximum(chunk, 2.0), before),
        Group(decodes, np.ones(len(table)), np.maximum(keys - 1.0, 0.0)),
    )
    sizes = (table.number(x) for x in ("q_heads", "kv_heads", "head_dim"))
    return mixed_time(device, p, p.decode(), dtype, groups, *sizes, warm=True)


def _usable(table: Table) -> Mask:
    work = table.number("prefill_chunk") + table.number("n_decode")
    return (table.text("suspect") != "1") & (table.number("latency_us") > 0) & (work > 0)


def _regime(table: Table) -> Texts:
    chunk, decodes = table.number("prefill_chunk") > 0, table.number("n_decode") > 0
    return np.where(chunk & decodes, "mixed", np.where(chunk, "chunk alone", "decode alone")).astype(np.str_)


def _shape(table: Table) -> Texts:
    parts = [table.text(x) for x in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")]
    return np.array(["x".join(row) for row in zip(*parts, strict=True)], dtype=np.str_)


def _fixed(_: str) -> dict[str, float]:
    """What one head size without windows cannot tell."""
    start = msgspec.structs.asdict(ChunkedParameters())
    return {x: start[x] for x in ("wide", "padded", "uneven", "odd_dim_s", "skipped", "window_edge")}


ATTENTION_CHUNKED = Kind(
    name="attention_chunked", columns=("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "latency_us"),
    model=ChunkedParameters, seconds=_seconds, usable=_usable, regime=_regime, shape=_shape,
    variant=lambda table: table.text("kernel"), fixed=_fixed,
)  # fmt: skip
