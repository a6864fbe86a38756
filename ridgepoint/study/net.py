"""The plan of a composed calibration net, from the sample that tells its shape, side, step and device."""

from collections.abc import Mapping
from typing import Any

from ridgepoint.choice import resolve
from ridgepoint.measurement.calibrate.composed import composed_decoder, composed_step
from ridgepoint.measurement.calibrate.grid import ComposedNet
from ridgepoint.workload import Plan, train

__all__ = ["net_plan", "training_net_plan"]


def net_plan(sample: Mapping[str, Any]) -> Plan:
    """The step of the net, so that the same paper predicts it."""
    net = ComposedNet(**sample["net"])
    side = resolve(sample["side"], "bf16", sample.get("device", "cpu"))
    return side.plan(composed_decoder(net), composed_step(sample["batch"], sample.get("new", 1), net.context))


def training_net_plan(sample: Mapping[str, Any]) -> Plan:
    """The training step of the net."""
    side = resolve(sample["side"], "bf16", "cpu")
    return side.plan(composed_decoder(ComposedNet(**sample["net"])), train(sample["batch"], sample["new"]))
