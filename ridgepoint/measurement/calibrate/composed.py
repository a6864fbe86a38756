"""Small random networks, run whole and operator by operator: what a network costs beyond its operators on their own."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from ridgepoint.choice import resolve
from ridgepoint.measurement.calibrate.grid import COMPOSED, ComposedNet
from ridgepoint.measurement.calibrate.pool import Timing, summarise
from ridgepoint.measurement.clock import ThreadCpu
from ridgepoint.measurement.leaves import leaf_totals
from ridgepoint.measurement.optime import overhead_s
from ridgepoint.measurement.runnable import Runnable, Weights, build_weights, runnable
from ridgepoint.workload import AttentionSpec, Block, Decoder, MlpSpec, Step, decode, prefill

__all__ = ["ComposedBench", "composed_decoder", "composed_step"]

_LEAST = 2
_LONG_S = 0.05
_MOST = 40
_TOO_LONG_S = 1.0
"""A step that would take longer, by the last one of its net, is left out: it is a row of the last one, repeated."""


def composed_decoder(net: ComposedNet) -> Decoder:
    """The workload noun of a composed net, so that the same paper predicts it."""
    head_dim = net.head_dim or net.hidden // net.heads
    block = Block(AttentionSpec(net.heads, net.kv_heads, head_dim), MlpSpec(net.intermediate), net.layers)
    return Decoder(f"composed-{net.hidden}", net.hidden, net.vocab, (block,), False, 4096, "bf16")


def composed_step(batch: int, new: int, context: int) -> Step:
    """A decode step at `context` for one new token, else a prefill of `new`."""
    return decode(batch, context) if new == 1 else prefill(batch, new)


class ComposedBench:
    """The composed nets of one side, built once and run in every round."""

    def __init__(self, spec: str):
        self.side = resolve(spec, "bf16")
        self._nets: list[tuple[ComposedNet, Decoder, Weights]] = []
        for net in COMPOSED:
            decoder = composed_decoder(net)
            weights = build_weights(decoder, self.side, decode(1, net.longest), {})
            self._nets.append((net, decoder, weights))

    def samples(self, seconds: float, most_rows: int) -> Iterator[dict[str, Any]]:
        """A sample per net and step of at most `most_rows` rows: seconds of the step and of each operator in it."""
        for net, decoder, weights in self._nets:
            row_s = 0.0
            for batch, new in sorted(net.steps, key=lambda step: step[0] * step[1]):
                if batch * new > most_rows or batch * new * row_s > _TOO_LONG_S:
                    continue
                run = runnable(decoder, self.side, composed_step(batch, new, net.context), weights)
                timing, ops = _time(run, seconds)
                row_s = timing.seconds / (batch * new)
                yield {
                    "probe": "composed", "net": asdict(net), "batch": batch, "new": new, "side": self.side.spec,
                    "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples, "ops": ops,
                }  # fmt: skip


def _time(run: Runnable, seconds: float) -> tuple[Timing, dict[str, float]]:
    """The whole step and, in turn with it, its operators: 20th percentiles of both."""
    clock = ThreadCpu()
    own_s = overhead_s(clock)
    run.call()
    whole = [_thread_ns(run.call)]
    leaves = [leaf_totals(run, clock, own_s)]
    begin = time.thread_time_ns()
    least = 1 if whole[0] > _LONG_S * 1e9 else _LEAST
    while len(whole) < least or (time.thread_time_ns() - begin < seconds * 1e9 and len(whole) < _MOST):
        whole.append(_thread_ns(run.call))
        leaves.append(leaf_totals(run, clock, own_s))
    return summarise(whole), {name: float(np.percentile([x[name] for x in leaves], 20)) for name in leaves[0]}


def _thread_ns(call: Callable[[], object]) -> int:
    before = time.thread_time_ns()
    call()
    return time.thread_time_ns() - before
