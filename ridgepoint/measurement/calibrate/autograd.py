"""Calibration of what torch's recording costs a call: chains of small operators in inference mode, no-grad and grad."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.measurement.calibrate.pool import summarise

__all__ = ["autograd_samples"]

_CALLS = 40
_ROWS, _COLS = 4, 64
_LEAST = 30


def autograd_samples(seconds: float) -> Iterator[dict[str, Any]]:
    """A sample per chain and mode, the modes in turns: pointwise operators, and linear layers, both of 256 elements."""
    import torch
    from torch import nn

    layer, scale = nn.Linear(_COLS, _COLS), torch.ones(_COLS, requires_grad=True)

    def pointwise(x: Any) -> Any:
        for _ in range(_CALLS // 2):
            x = torch.relu(x * scale)
        return x

    def product(x: Any) -> Any:
        for _ in range(_CALLS):
            x = layer(x)
        return x

    for name, chain in (("pointwise", pointwise), ("product", product)):
        for mode, values in _in_modes(chain, seconds).items():
            timing = summarise(values)
            yield {
                "probe": "autograd", "chain": name, "mode": mode, "calls": _CALLS, "seconds": timing.seconds,
                "spread": timing.spread, "n_samples": timing.samples,
            }  # fmt: skip


def _in_modes(chain: Callable[[Any], Any], seconds: float) -> dict[str, list[int]]:
    import torch

    modes = {"inference": torch.inference_mode, "no-grad": torch.no_grad, "grad": torch.enable_grad}
    samples: dict[str, list[int]] = {mode: [] for mode in modes}
    clock = time.thread_time_ns
    start = clock()
    while len(samples["grad"]) < _LEAST or clock() - start < seconds * 1e9:
        for mode, recording in modes.items():
            with recording():
                x = torch.ones(_ROWS, _COLS)
                before = clock()
                y = chain(x)
                del y  # and with it the graph: a step drops its graph when its result goes
                samples[mode].append(clock() - before)
    return samples
