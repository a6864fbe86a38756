"""The plan of a composed calibration net, from the sample that tells its shape, side, batch and device."""

from collections.abc import Mapping
from typing import Any

from ridgepoint.choice import resolve
from ridgepoint.workload import AttentionSpec, Block, Decoder, MlpSpec, Plan, decode

__all__ = ["net_plan"]


def net_plan(sample: Mapping[str, Any]) -> Plan:
    """A decode step of the net, so that the same paper predicts it."""
    net = sample["net"]
    attention = AttentionSpec(net["heads"], net["kv_heads"], net.get("head_dim") or net["hidden"] // net["heads"])
    block = Block(attention, MlpSpec(net["intermediate"]), net["layers"])
    decoder = Decoder("composed", net["hidden"], net["vocab"], (block,), False, 4096, "bf16")
    side = resolve(sample["side"], "bf16", sample.get("device", "cpu"))
    return side.plan(decoder, decode(sample["batch"], net["context"]))
