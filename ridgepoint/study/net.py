"""The plan of a composed calibration net, from the sample that tells its shape, side, step and device."""

from collections.abc import Mapping
from typing import Any

from ridgepoint.choice import resolve
from ridgepoint.workload import AttentionSpec, Block, Decoder, MlpSpec, Plan, decode, prefill

__all__ = ["net_plan"]


def net_plan(sample: Mapping[str, Any]) -> Plan:
    """The step of the net, so that the same paper predicts it."""
    net = sample["net"]
    attention = AttentionSpec(net["heads"], net["kv_heads"], net.get("head_dim") or net["hidden"] // net["heads"])
    block = Block(attention, MlpSpec(net["intermediate"]), net["layers"])
    decoder = Decoder("composed", net["hidden"], net["vocab"], (block,), False, 4096, "bf16")
    side = resolve(sample["side"], "bf16", sample.get("device", "cpu"))
    new = sample.get("new", 1)
    step = decode(sample["batch"], net["context"]) if new == 1 else prefill(sample["batch"], new)
    return side.plan(decoder, step)
