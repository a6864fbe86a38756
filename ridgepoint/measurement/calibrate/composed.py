"""Small random networks, run whole: what a network costs beyond the sum of its operators."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ridgepoint.choice import resolve
from ridgepoint.measurement.calibrate.grid import COMPOSED, ComposedNet
from ridgepoint.measurement.calibrate.pool import Timing, summarise
from ridgepoint.measurement.runnable import Weights, build_weights, runnable
from ridgepoint.workload import AttentionSpec, Block, Decoder, MlpSpec, decode

__all__ = ["ComposedBench", "composed_decoder"]


def composed_decoder(net: ComposedNet) -> Decoder:
    """The workload noun of a composed net, so that the same paper predicts it."""
    head_dim = net.head_dim or net.hidden // net.heads
    block = Block(AttentionSpec(net.heads, net.kv_heads, head_dim), MlpSpec(net.intermediate), net.layers)
    return Decoder(f"composed-{net.hidden}", net.hidden, net.vocab, (block,), False, 4096, "bf16")


class ComposedBench:
    """The composed nets of one side, built once and run in every round."""

    def __init__(self, spec: str):
        self.side = resolve(spec, "bf16")
        self._nets: list[tuple[ComposedNet, Decoder, Weights]] = []
        for net in COMPOSED:
            decoder = composed_decoder(net)
            weights = build_weights(decoder, self.side, decode(1, net.context), {})
            self._nets.append((net, decoder, weights))

    def samples(self, seconds: float) -> Iterator[dict[str, Any]]:
        """A sample per net and batch: seconds of a decode step."""
        for net, decoder, weights in self._nets:
            for batch in net.batches:
                run = runnable(decoder, self.side, decode(batch, net.context), weights)
                timing = _time(run.call, seconds)
                yield {
                    "probe": "composed", "net": asdict(net), "batch": batch, "side": self.side.spec,
                    "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
                }  # fmt: skip


def _time(call: Callable[[], object], seconds: float) -> Timing:
    call()
    call()
    samples: list[int] = []
    start = time.thread_time_ns()
    while len(samples) < 4 or (time.thread_time_ns() - start < seconds * 1e9 and len(samples) < 60):
        before = time.thread_time_ns()
        call()
        samples.append(time.thread_time_ns() - before)
    return summarise(samples)
