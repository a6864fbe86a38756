"""Whole training steps of small nets: what a step takes over the sum of its operators."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.composed import composed_decoder
from ridgepoint.measurement.calibrate.grid import ComposedNet
from ridgepoint.measurement.calibrate.pool import summarise
from ridgepoint.measurement.runnable import build_weights, runnable
from ridgepoint.workload import train

__all__ = ["TRAINED_NETS", "training_net_samples"]

TRAINED_NETS: dict[str, tuple[tuple[ComposedNet, tuple[tuple[int, int], ...]], ...]] = {
    "fp32": (
        (ComposedNet(320, 832, 3, 5, 5, 2816, (), 0), ((1, 64), (3, 96))),
        (ComposedNet(704, 1792, 2, 11, 1, 6400, (), 0), ((1, 80), (2, 128))),
    ),
    "bf16": (
        (ComposedNet(320, 832, 2, 5, 5, 1408, (), 0), ((1, 64),)),
        (ComposedNet(448, 1216, 2, 7, 1, 2816, (), 0), ((1, 40),)),
    ),
}
"""By dtype nets with their steps as (sequences, tokens): small ones in bf16, which not every CPU has instructions for."""
SIDES = {
    "fp32": ("fp32+full", "fp32+lora:r=12", "fp32+lora:r=12+checkpoint"),
    "bf16": ("bf16+full", "bf16+lora:r=12", "bf16+qlora:r=12"),
}
_LEAST, _SLOW_S = 5, 0.4
"""Steps; only two of a step that takes longer, and none of its net's larger ones."""


def training_net_samples(act: str, seconds: float) -> Iterator[dict[str, Any]]:
    """A sample per net, side and step in one dtype."""
    for net, steps in TRAINED_NETS[act]:
        decoder = composed_decoder(net)
        for spec in SIDES[act]:
            side = resolve(spec, act)
            try:
                weights = build_weights(decoder, side, train(*steps[-1]), {})
            except NotSupported as reason:
                yield {"probe": "absent", "of": f"training {spec}", "absent": str(reason)}
                continue
            for batch, new in steps:
                run = runnable(decoder, side, train(batch, new), weights)
                samples = _samples(run, seconds)
                timing = summarise(samples)
                yield {
                    "probe": "training net", "net": asdict(net), "batch": batch, "new": new, "side": side.spec, "act": act,
                    "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
                }  # fmt: skip
                if timing.seconds > _SLOW_S:
                    break


def _samples(run: Any, seconds: float) -> list[int]:
    samples: list[int] = []
    begin = time.thread_time_ns()
    while len(samples) < 2 or (
        samples[-1] < _SLOW_S * 1e9 and (len(samples) < _LEAST or time.thread_time_ns() - begin < seconds * 1e9)
    ):
        start = time.thread_time_ns()
        run.call()
        samples.append(time.thread_time_ns() - start)
    return samples
